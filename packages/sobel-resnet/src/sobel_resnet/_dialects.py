"""From a foreign state_dict to torchvision's key names, and from tensors to an architecture."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ._blocks import Bottleneck
from ._resnet import LAYOUTS, Stem

# What DDP, torch.compile, MMSelfSup, solo-learn and Lightning modules put before a backbone's own names.
_PREFIX = re.compile(r"((?:(?:module|_orig_mod|backbone|encoder)\.)*)conv1\.weight")
_TRUNK = re.compile(r"(conv|bn|layer)\d+\.")


@dataclass(frozen=True)
class Trunk:
    """A backbone found in a file: tensors by torchvision's names, names left behind, and whose file it seems to be."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    family: str


def find_trunk(content: Mapping[Any, Any]) -> Trunk:
    """Open `state_dict` and `model` containers and strip known prefixes; ValueError if no or several trunks show."""
    top = content
    while (
        inner := next((content[key] for key in ("state_dict", "model") if _is_mapping(content.get(key))), None)
    ) is not None:
        content = inner
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    prefixes = [found[1] for key in tensors if (found := _PREFIX.fullmatch(key))]
    if not prefixes:
        raise ValueError(
            "no ResNet found: expected 'conv1.weight', alone or after module., backbone. or encoder.; "
            f"got {_some(list(tensors)) or 'no tensors'}"
        )
    if len(prefixes) > 1:
        raise ValueError(f"several ResNets found, under {_some(prefixes)}: save the one you want in a file of its own")
    prefix = prefixes[0]
    trunk, dropped = {}, []
    for key, value in tensors.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and _TRUNK.match(name):
            trunk[name] = value
        else:
            dropped.append(key)
    return Trunk(trunk, tuple(sorted(dropped)), _family(top, prefix))


def architecture(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `ResNet` read off the shapes; two input channels mean Sobel. ValueError names what fits nothing."""
    n_blocks = tuple(len({key.split(".")[1] for key in tensors if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    is_bottleneck = "layer1.0.conv3.weight" in tensors
    arch = next(
        (a for a, (block, layout) in LAYOUTS.items() if layout == n_blocks and (block is Bottleneck) == is_bottleneck),
        None,
    )
    if arch is None:
        block_name = "bottleneck" if is_bottleneck else "basic"
        raise ValueError(f"blocks per stage {n_blocks} of the {block_name} kind are none of {', '.join(LAYOUTS)}")
    shape = tuple(tensors["conv1.weight"].shape)
    stems: dict[tuple[int, ...], Stem] = {(7, 7): "imagenet", (3, 3): "cifar"}
    if shape[2:] not in stems:
        raise ValueError(f"conv1.weight must be (channels, in, 7, 7) or (channels, in, 3, 3), got {shape}")
    return {
        "arch": arch,
        "stem": stems[shape[2:]],
        "width": shape[0] / 64,
        "sobel": shape[1] == 2,
        "in_channels": 3 if shape[1] == 2 else shape[1],
    }


def _family(top: Mapping[Any, Any], prefix: str) -> str:
    """Best guess of the program that wrote the file, for the report only."""
    if "pytorch-lightning_version" in top:
        return "lightning"
    if "meta" in top:
        return "openmmlab"
    return {"": "torchvision", "module.": "swav"}.get(prefix, f"prefix {prefix}")


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _some(names: list[str], n: int = 4) -> str:
    return ", ".join(map(repr, names[:n])) + (f" and {len(names) - n} more" if len(names) > n else "")
