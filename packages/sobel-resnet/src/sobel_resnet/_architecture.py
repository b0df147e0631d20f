"""Infer the architecture of a ResNet from its tensors, and check that they fit it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ._blocks import Bottleneck
from ._checks import check_match
from ._resnet import LAYOUTS, ResNet, Stem


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
    if "conv1.weight" not in tensors:
        raise ValueError("there is no conv1.weight")
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


def check_architecture(tensors: Mapping[str, Tensor], options: dict[str, Any]) -> None:
    """Raise ValueError unless these are the tensors of the network with these arguments; nothing is allocated."""
    check_match(tensors, _empty_state(**options))


@lru_cache(maxsize=16)  # a file may hold many networks of the same architecture
def _empty_state(**options: Any) -> dict[str, Tensor]:
    """Build the network on the meta device, where it takes no memory: metadata can claim a width of millions."""
    try:
        with torch.device("meta"):
            return ResNet(**options).state_dict()
    except (OverflowError, RuntimeError, TypeError) as error:  # sizes beyond 64 bit or negative channels
        reason = str(error).splitlines()[0]  # of a TypeError, torch adds its stack
        raise ValueError(f"no ResNet can be built with {options}: {reason}") from None
