"""Backbones to and from files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ._dialects import Trunk, architecture, find_trunk
from ._files import read_weights
from ._resnet import ResNet, architecture_of

_FORMAT = "1"  # of the metadata below; raised when an old reader would misread a new file


@dataclass(frozen=True)
class LoadReport:
    """What `load_backbone` found: arch, number of tensors loaded, names left behind, metadata, and whose file it is."""

    arch: str
    matched: int
    dropped: tuple[str, ...]
    family: str
    metadata: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        left = f", {len(self.dropped)} left behind ({', '.join(self.dropped[:3])}...)" if self.dropped else ""
        return f"{self.arch} from a {self.family} file: {self.matched} tensors loaded{left}"


def save_backbone(backbone: ResNet, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a backbone as safetensors under torchvision's names, with what `load_backbone` needs to rebuild it.

    metadata: your own strings, kept beside ours (arch, sobel, stem, width, in_channels, sobel_resnet = format
    version, format). The file appears whole or not at all: it is written beside `path` and renamed.
    Raises TypeError if backbone is not a ResNet, ValueError if metadata redefines one of our keys."""
    if not isinstance(backbone, ResNet):
        raise TypeError(f"backbone must be a ResNet of sobel_resnet, got {type(backbone).__name__}: unwrap it first")
    ours = {
        "format": "pt",  # what other readers of safetensors look for
        "sobel_resnet": _FORMAT,
    } | {key: str(value).lower() for key, value in architecture_of(backbone).items()}
    if clash := ours.keys() & (metadata or {}).keys():
        raise ValueError(f"metadata keys {sorted(clash)} are written by save_backbone: rename yours")
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(save(tensors, ours | dict(metadata or {})))  # save_file would make it private to its owner
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_backbone(path: str | os.PathLike[str]) -> tuple[ResNet, LoadReport]:
    """Rebuild a backbone from our own files or from anybody's ResNet-18/34/50/101.

    Read are torchvision's names, alone or as DDP, MMSelfSup, mmpretrain, solo-learn, Lightning and VISSL wrap them,
    Lightly's `nn.Sequential` numbers, and detectron2's as `export` writes them. Depth, width, stem and Sobel (two
    input channels) come from our metadata or from the tensors; a Sobel layer in the file must be DeepCluster's. Heads
    are dropped and listed. The model is float32 on the CPU, in training mode. Files are read without running code.
    Raises FileNotFoundError, or ValueError in one line if the file is damaged, wants code, holds no such ResNet
    (AlexNet and VGG of DeepCluster's first code are refused by name), or does not match in full."""
    path = Path(path)
    content, metadata = read_weights(path)
    try:
        trunk = find_trunk(content)
        model = _build(trunk, metadata)
        _check_match(trunk.tensors, model.state_dict())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    # Not strict only because files older than torch 0.4.1 have no num_batches_tracked; all else was checked.
    model.load_state_dict(trunk.tensors, strict=False)
    family = "sobel-resnet" if "sobel_resnet" in metadata else trunk.family
    return model, LoadReport(model.arch, len(trunk.tensors), trunk.dropped, family, metadata)


def _build(trunk: Trunk, metadata: dict[str, str]) -> ResNet:
    if "sobel_resnet" not in metadata:
        return ResNet(**architecture(trunk.tensors))
    if metadata["sobel_resnet"] != _FORMAT:
        raise ValueError(f"format {metadata['sobel_resnet']} is newer than {_FORMAT}: upgrade sobel-resnet")
    try:
        return ResNet(
            metadata["arch"],
            sobel=metadata["sobel"] == "true",
            stem=metadata["stem"],  # type: ignore[arg-type]  # checked by ResNet
            width=float(metadata["width"]),
            in_channels=int(metadata["in_channels"]),
        )
    except KeyError as error:
        raise ValueError(f"metadata has no {error}: save the backbone again") from None


def _check_match(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = sorted(key for key in wanted.keys() - found.keys() if not key.endswith("num_batches_tracked"))
    unexpected = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    if said := [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in faults.items() if names]:
        raise ValueError(f"tensors do not match the ResNet they look like: {'; '.join(said)}")
