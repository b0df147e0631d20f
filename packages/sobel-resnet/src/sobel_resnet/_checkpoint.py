"""Backbones to and from files."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ._dialects import Trunk, architecture, find_trunk
from ._files import one_line, read_weights
from ._resnet import ResNet, architecture_of

_FORMAT = "2"  # of the metadata below; raised when an old reader would misread a new file; 1 had no hash
_DIGEST = "sobel_resnet_sha256"


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
    version, sobel_resnet_sha256, format). safetensors have no checksum; ours carry one, of tensors and metadata, that
    `load_backbone` compares. The file appears whole or not at all: it is written beside `path` and renamed.
    Raises TypeError if backbone is not a ResNet, ValueError if metadata redefines one of our keys."""
    if not isinstance(backbone, ResNet):
        raise TypeError(f"backbone must be a ResNet of sobel_resnet, got {type(backbone).__name__}: unwrap it first")
    ours = {
        "format": "pt",  # what other readers of safetensors look for
        "sobel_resnet": _FORMAT,
    } | {key: str(value).lower() for key, value in architecture_of(backbone).items()}
    if clash := {*ours, _DIGEST} & (metadata or {}).keys():
        raise ValueError(f"metadata keys {sorted(clash)} are written by save_backbone: rename yours")
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    about = ours | dict(metadata or {})
    about[_DIGEST] = _digest(tensors, about)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(save(tensors, about))  # save_file would make it private to its owner
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_backbone(path: str | os.PathLike[str]) -> tuple[ResNet, LoadReport]:
    """Rebuild a backbone from our own files or from anybody's ResNet-18/34/50/101.

    Read are torchvision's names, alone or as DDP, MMSelfSup, mmpretrain, solo-learn, Lightning and VISSL wrap them,
    Lightly's `nn.Sequential` numbers, and detectron2's as `export` writes them. Depth, width, stem and Sobel (two
    input channels) come from our metadata or from the tensors; a Sobel layer in the file must be DeepCluster's. Heads
    are dropped and listed. The model is float32 on the CPU, in training mode, whichever floats the file holds. Files
    are read without running code; nothing is allocated for tensors that fit neither the network nor the file's size.
    Raises FileNotFoundError, or ValueError in one line if the file is damaged, wants code, holds no such ResNet
    (AlexNet and VGG of DeepCluster's first code are refused by name), does not match in full, or has values that are
    not finite. Damage inside a tensor shows by the hash in our files and the checksums in a `.pth` that is a zip; other
    safetensors and the `.pth` of torch before 1.6 carry neither."""
    path = Path(path)
    content, metadata = read_weights(path)
    try:
        _check_digest(content, metadata)
        trunk = find_trunk(content)
        _check_size(trunk.tensors, path.stat().st_size)
        options = _options(trunk, metadata)
        _check_match(trunk.tensors, _empty(options).state_dict())
        model = ResNet(**options)
        # Not strict only because files older than torch 0.4.1 have no num_batches_tracked; all else was checked.
        model.load_state_dict(trunk.tensors, strict=False)
        _check_finite(model.state_dict())
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from None
    family = "sobel-resnet" if "sobel_resnet" in metadata else trunk.family
    return model, LoadReport(model.arch, len(trunk.tensors), trunk.dropped, family, metadata)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hex, of names, dtypes, shapes, values and the other metadata, in whatever order a file has them."""
    digest = hashlib.sha256(json.dumps({key: metadata[key] for key in sorted(metadata.keys() - {_DIGEST})}).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_digest(content: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    if _DIGEST not in metadata and metadata.get("sobel_resnet") != _FORMAT:  # other people's, and our first
        return
    if metadata.get(_DIGEST) != _digest(content, metadata):
        raise ValueError("not what was saved: tensors or metadata differ from their hash; fetch or save it again")


def _check_size(tensors: Mapping[str, Tensor], size: int) -> None:
    """ValueError unless the tensors fit a file of `size` bytes: a pickle can put any shape over one number."""
    claimed = sum(value.numel() * value.element_size() for value in tensors.values())
    if claimed > size:
        raise ValueError(f"tensors claim {claimed:,} bytes in a file of {size:,}: damaged or forged")


def _options(trunk: Trunk, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `ResNet`, from our metadata or else from the tensors."""
    if "sobel_resnet" not in metadata:
        return architecture(trunk.tensors)
    if metadata["sobel_resnet"] not in ("1", _FORMAT):
        raise ValueError(f"format {metadata['sobel_resnet']} is newer than {_FORMAT}: upgrade sobel-resnet")
    try:
        return {
            "arch": metadata["arch"],
            "sobel": metadata["sobel"] == "true",
            "stem": metadata["stem"],
            "width": float(metadata["width"]),
            "in_channels": int(metadata["in_channels"]),
        }
    except KeyError as error:
        raise ValueError(f"metadata has no {error}: save the backbone again") from None


def _empty(options: dict[str, Any]) -> ResNet:
    """The network without memory for its weights, to compare shapes: a few bytes can claim a width of millions."""
    try:
        with torch.device("meta"):
            return ResNet(**options)
    except (OverflowError, RuntimeError) as error:  # sizes beyond 64 bit, negative channels
        raise ValueError(f"no ResNet can be built with {options}: {error}") from None


def _check_finite(state: Mapping[str, Tensor]) -> None:
    # One pass: a finite sum has finite terms. A sum may overflow without them, so what is not finite is counted.
    suspects = {key: value for key, value in state.items() if not value.sum().isfinite()}
    bad = {key: n for key, value in suspects.items() if (n := int((~value.isfinite()).sum()))}
    if bad:
        first = next(iter(bad))
        raise ValueError(
            f"{len(bad)} of {len(state)} tensors hold NaN or infinity, the first is {first} ({bad[first]} of "
            f"{state[first].numel()} values): a run that diverged or a damaged file; take an earlier checkpoint"
        )


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
