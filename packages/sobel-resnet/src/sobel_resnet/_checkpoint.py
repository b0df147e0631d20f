"""Save backbones to files and load them from files of many projects."""

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

from ._architecture import architecture, check_architecture
from ._checks import check_finite, check_size
from ._dialects import Trunk, find_trunk
from ._files import one_line, read_weights, shown
from ._resnet import ResNet, architecture_of

# Version of our metadata. It is raised when older readers would misread a new file. Version 1 had no hash.
_FORMAT = "2"
_DIGEST = "sobel_resnet_sha256"


@dataclass(frozen=True)
class LoadReport:
    """What `load_backbone` found in a file; `str(report)` is one line for a log.

    Attributes:
        arch: Architecture, such as "resnet50".
        matched: Number of tensors loaded.
        dropped: Names of the tensors that are not part of the backbone, such as heads.
        family: The program that seems to have written the file.
        metadata: The strings stored in a safetensors file.
        prefix: What precedes the names of the backbone, such as "module.encoder_q.". Containers such as state_dict
            are part of it only where they tell the networks of the file apart.
        others: The same for other networks in the file, which `load_backbone` loads if its `prefix` is one of them. The
            fault of one that cannot be loaded follows in parentheses.
        is_copy: Whether the backbone is a momentum or EMA copy, by its name: the file holds nothing else, or it was
            asked for.
        has_guessed_sobel: Whether two input channels alone made it a network behind a Sobel filter.
    """

    arch: str
    matched: int
    dropped: tuple[str, ...]
    family: str
    metadata: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    others: tuple[str, ...] = ()
    is_copy: bool = False
    has_guessed_sobel: bool = field(default=False, init=False)

    def __str__(self) -> str:
        left = f", {len(self.dropped)} left behind ({', '.join(self.dropped[:3])}...)" if self.dropped else ""
        place = f", from {self.prefix or 'the top'}" if self.others or self.is_copy else ""
        place += " (a momentum or EMA copy)" if self.is_copy else ""
        place += f" and not from {', '.join(name or 'the top' for name in self.others)}" if self.others else ""
        sobel = " with a Sobel filter (it has two input channels)" if self.has_guessed_sobel else ""
        text = f"{self.arch}{sobel} from a {self.family} file: {self.matched} tensors loaded{place}{left}"
        return one_line(text)


def save_backbone(backbone: ResNet, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a backbone as safetensors under torchvision's names, with the metadata `load_backbone` needs to rebuild it.

    The metadata include a SHA-256 of all tensors and metadata, which `load_backbone` compares, because the safetensors
    format has no checksum. The file is written under a temporary name and renamed, so `path` never holds half a file.

    Args:
        backbone: The network to save.
        path: The file to write.
        metadata: Strings of your own to store, under other keys than ours: arch, sobel, stem, width, in_channels,
            sobel_resnet (the version of the format), sobel_resnet_sha256 and format.

    Raises:
        TypeError: If `backbone` is not a ResNet of this package.
        ValueError: If `metadata` redefines one of our keys.
    """
    if not isinstance(backbone, ResNet):
        raise TypeError(f"backbone must be a ResNet of sobel_resnet, got {type(backbone).__name__}: unwrap it first")
    ours = {
        "format": "pt",  # other readers of safetensors expect this key
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
        partial.write_bytes(save(tensors, about))  # save_file would make the file readable by its owner only
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_backbone(path: str | os.PathLike[str], *, prefix: str | None = None) -> tuple[ResNet, LoadReport]:
    """Rebuild a backbone from a file of this package or a ResNet-18, -34, -50 or -101 of another project.

    The names are searched for a whole ResNet under any prefix and in any container. Architecture, width, stem and Sobel
    filter come from our metadata or from the shapes of the tensors. Heads are dropped and listed in the report. No code
    of a file is run.

    Of several networks, the momentum or EMA copy (encoder_k, teacher, target, model_ema, ...) is not taken, not even
    where the other one is damaged. The report says which one was.

    Args:
        path: A safetensors or torch file; or the index of one in parts, or the folder that holds the index.
        prefix: What precedes the names of the network to load, where a file holds several; a part of it, such as a
            container, is enough where only one network has it.

    Returns:
        The model, float32 on the CPU and in training mode, and a report of what was found.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: In one line, if the file is of another kind, is damaged, would run code, holds no such ResNet or
            several without a reason to choose, does not match it in full or holds NaN or infinity. Damage inside a
            tensor is found in our files (by their hash) and in a `.pth` that is a zip (by its checksums). Other
            safetensors and the `.pth` of torch before 1.6 have neither.

    Example:
        ```python
        backbone, report = load_backbone("swav_800ep_pretrain.pth.tar")
        print(report)
        teacher, _ = load_backbone("dino_resnet50_pretrain_full_checkpoint.pth", prefix="teacher")
        ```
    """
    path = Path(path)
    weights = read_weights(path)
    metadata = weights.metadata
    try:
        _check_digest(weights.content, metadata)
        trunk = find_trunk(weights.content, weights.size, prefix)
        options = _options(trunk, metadata)
        check_size(trunk.tensors, weights.size)
        model = ResNet(**options)
        # strict=False accepts files without num_batches_tracked (torch before 0.4.1). The rest has been checked.
        tensors = {key: value for key, value in trunk.tensors.items() if not _is_odd_count(key, value)}
        model.load_state_dict(tensors, strict=False)
        check_finite(model.state_dict())
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {one_line(str(error))}") from None
    report = LoadReport(
        model.arch,
        len(tensors),
        trunk.dropped,
        "sobel-resnet" if "sobel_resnet" in metadata else trunk.family,
        metadata,
        trunk.prefix,
        trunk.others,
        trunk.is_copy,
    )
    object.__setattr__(report, "has_guessed_sobel", options["sobel"] and "sobel_resnet" not in metadata)
    return model, report


def _is_odd_count(key: str, value: Tensor) -> bool:
    """Tell whether this is a count of batches of another shape than torch's, which no result depends on."""
    return key.endswith("num_batches_tracked") and value.shape != ()


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256, in hex, of all tensors (name, dtype, shape, values) and metadata, whatever their order."""
    digest = hashlib.sha256(json.dumps({key: metadata[key] for key in sorted(metadata.keys() - {_DIGEST})}).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_digest(content: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    if _DIGEST not in metadata and metadata.get("sobel_resnet") != _FORMAT:  # foreign files, and ours of version 1
        return
    if metadata.get(_DIGEST) != _digest(content, metadata):
        raise ValueError(
            "damaged since it was saved: tensors or metadata differ from their hash; fetch or save it again"
        )


def _options(trunk: Trunk, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of the `ResNet` that the tensors match, from our metadata or, in foreign files, from them.

    Raises ValueError if they match none, with the network that they may belong to.
    """
    if "sobel_resnet" in metadata:
        options = _saved_options(metadata)
        check_architecture(trunk.tensors, options)
        return options
    try:
        options = architecture(trunk.tensors)
        check_architecture(trunk.tensors, options)
    except ValueError as error:
        spare = f"; this is the network under {trunk.prefix!r}, and prefix={trunk.spare!r} loads another of the file"
        spare = "" if trunk.spare is None else spare
        if trunk.lookalike is None:
            raise ValueError(f"{error}{spare}") from None
        raise ValueError(
            f"no ResNet of this package but {trunk.lookalike}, which is not read: {error}{spare}"
        ) from None
    return options


def _saved_options(metadata: Mapping[str, str]) -> dict[str, Any]:
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
