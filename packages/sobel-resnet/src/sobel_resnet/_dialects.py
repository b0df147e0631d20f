"""Find a backbone in a foreign checkpoint: translate its key names to torchvision's and infer its architecture."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._blocks import Bottleneck
from ._names import from_detectron2, from_sequential, is_sequential
from ._resnet import LAYOUTS, Stem
from ._sobel import SobelFilter

_CONTAINERS = ("state_dict", "model", "classy_state_dict", "base_model", "trunk", "model_state_dict")
_MAX_DEPTH = 16  # known files nest up to three containers; a pickle can hold a container that contains itself
# Prefixes that DDP, torch.compile, MMSelfSup, solo-learn, Lightning modules and VISSL put before a backbone's names.
_PREFIX = re.compile(r"((?:(?:module|_orig_mod|backbone|encoder|base_model|_feature_blocks)\.)*)(conv1|0)\.weight")
_TRUNK = re.compile(r"(conv|bn|layer)\d+\.")
_SOBEL = re.compile(r"(?:.*\.)?sobel\.(\d+\.\w+)")
_FEATURES = re.compile(r"(?:.*\.)?features\.(?:module\.)?\d+\.weight")


@dataclass(frozen=True)
class Trunk:
    """A backbone found in a file: its tensors by torchvision's names, the names dropped, and the writing program."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    family: str


def find_trunk(content: Mapping[Any, Any]) -> Trunk:
    """Open nested containers, strip known prefixes and translate the names of the one backbone in a file.

    Raises ValueError if there is no backbone or more than one, if the file holds another Sobel filter than ours, or if
    a tensor of the backbone is not a dense tensor of floats.
    """
    top = content
    heads: list[str] = []
    depth = 0
    while (inner := _container(content)) is not None:
        if (depth := depth + 1) > _MAX_DEPTH:
            raise ValueError(f"containers are nested deeper than {_MAX_DEPTH}: save only the state_dict")
        if inner == "trunk" and isinstance(content.get("heads"), Mapping):  # VISSL keeps heads beside the trunk
            heads = [f"heads.{key}" for key in content["heads"]]
        content = content[inner]
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    prefix, rename = _find_names(list(tensors))
    trunk, dropped = {}, heads
    for key, value in tensors.items():
        name = rename(key.removeprefix(prefix))
        if key.startswith(prefix) and _TRUNK.match(name):
            _check_plain(key, value)
            trunk[name] = value
        else:
            dropped.append(key)
    _check_sobel(tensors, trunk["conv1.weight"])
    return Trunk(trunk, tuple(sorted(dropped)), _family(top, prefix, rename))


def _container(content: Mapping[Any, Any]) -> Any:
    """Return the key of the container to open next, or None at the innermost level.

    A mapping that is the only item of another mapping is opened whatever its key is.
    """
    known = next((key for key in _CONTAINERS if isinstance(content.get(key), Mapping)), None)
    if known is None and len(content) == 1 and isinstance(next(iter(content.values())), Mapping):
        return next(iter(content))
    return known


def _find_names(keys: list[str]) -> tuple[str, Callable[[str], str]]:
    """Return the prefix of the one backbone among `keys`, and a function that translates its names to torchvision's."""
    # Prefixed names of detectron2 are not recognised: its own models may have the stride on the 1x1 convolution.
    if "stem.conv1.weight" in keys:
        return "", from_detectron2
    prefixes: dict[str, Callable[[str], str]] = {}
    for found in filter(None, map(_PREFIX.fullmatch, keys)):
        prefix, first = found[1], found[2]
        if first == "conv1":
            prefixes[prefix] = str
        elif is_sequential(key.removeprefix(prefix) for key in keys):
            prefixes[prefix] = from_sequential
    if not prefixes:
        if features := next(filter(_FEATURES.fullmatch, keys), None):
            raise ValueError(
                f"no ResNet found but an AlexNet or VGG ({features}), as the DeepCluster code of 2018 trains: "
                f"only {', '.join(LAYOUTS)} are read"
            )
        raise ValueError(
            "no ResNet found: expected 'conv1.weight', alone or after module., backbone., encoder. or "
            f"_feature_blocks.; got {_some(keys) or 'no tensors'}"
        )
    if len(prefixes) > 1:
        raise ValueError(
            f"several ResNets found, under {_some(list(prefixes))}: save the one you want in a file of its own"
        )
    return prefixes.popitem()


def _check_plain(key: str, value: Tensor) -> None:
    """Raise ValueError unless this is a dense CPU tensor of floats; num_batches_tracked may hold integers."""
    if value.is_nested or value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise ValueError(f"{key} is not a dense CPU tensor: save the state_dict of the float model")
    if not value.is_floating_point() and not key.endswith("num_batches_tracked"):
        raise ValueError(f"{key} is {value.dtype}, expected floats: save the state_dict of the float model")


def _check_sobel(tensors: Mapping[str, Tensor], conv1: Tensor) -> None:
    """Raise ValueError if the file holds a Sobel layer that differs from ours.

    MMSelfSup 1.x writes such files where its weight initialisation overwrote the filter.
    """
    ours = {
        "0.weight": torch.full((1, 3, 1, 1), 1 / 3),
        "0.bias": torch.zeros(1),
        "1.weight": SobelFilter().kernels,
        "1.bias": torch.zeros(2),
    }
    for key, value in tensors.items():
        if (found := _SOBEL.fullmatch(key)) is None:
            continue
        _check_plain(key, value)
        wanted = ours.get(found[1])
        # The tolerance of 1e-3 accepts 1/3 rounded to bfloat16.
        if (
            wanted is None
            or value.shape != wanted.shape
            or not torch.allclose(value.float(), wanted, rtol=0, atol=1e-3)
        ):
            raise ValueError(
                f"{key} is not DeepCluster's Sobel filter (mean of 3 channels, then two fixed 3x3 kernels), which is "
                "the only one this package computes: the network would see other images than it was trained on"
            )
        if conv1.shape[1:2] != (2,):
            raise ValueError(f"{key} puts two channels before conv1.weight, which is {tuple(conv1.shape)}")


def architecture(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the arguments of `ResNet` from tensor shapes; two input channels mean a Sobel backbone.

    Raises ValueError, naming the shape, if the tensors belong to none of our architectures.
    """
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


def _family(top: Mapping[Any, Any], prefix: str, rename: Callable[[str], str]) -> str:
    """Guess the program that wrote the file; only the load report uses this."""
    if rename is from_detectron2:
        return "detectron2"
    if rename is from_sequential:
        return "lightly"
    if "_feature_blocks." in prefix:
        return "vissl"
    if "pytorch-lightning_version" in top:
        return "lightning"
    if "meta" in top:
        return "openmmlab"
    return {"": "torchvision", "module.": "swav"}.get(prefix, f"prefix {prefix}")


def _some(names: list[str], n: int = 4) -> str:
    return ", ".join(map(repr, names[:n])) + (f" and {len(names) - n} more" if len(names) > n else "")
