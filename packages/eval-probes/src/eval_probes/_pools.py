"""Feature1 to Feature5 of a ResNet, pooled to about 9,000 dimensions each (Goyal et al. 2019, arXiv:1905.01235).

Shapes: B images, C channels, s side of a pooled map.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ._arrays import Array, as_tensor

Pool = Literal["specified", "adaptive"]

SIDES = {"feature1": 12, "feature2": 6, "feature3": 4, "feature4": 3, "feature5": 2, "avgpool": 1}  # s of each tap
# tap -> (side of the map at 224 pixels, kernel, stride, padding); the mean includes padded zeros
_AT_224 = {
    "feature1": (112, 10, 10, 4),
    "feature2": (56, 16, 8, 0),
    "feature3": (28, 13, 5, 0),
    "feature4": (14, 8, 3, 0),
    "feature5": (7, 6, 1, 0),
}


def pool_taps(maps: Mapping[str, Array], taps: Sequence[str], pool: Pool = "specified") -> dict[str, Tensor]:
    """Pool and flatten the feature maps of a ResNet.

    Args:
        maps: {"feature1": (B, C, h, w), ...}.
        taps: Any of "feature1" ... "feature5" (s = 12, 6, 4, 3, 2: 9216, 9216, 8192, 9216, 8192 dimensions for
            ResNet-50), and "avgpool", the global mean of feature5.
        pool: "specified" is the average pooling of published tables. It is defined for images of 224 pixels only; maps
            of another size are pooled adaptively to the same s, with a warning. "adaptive" always pools adaptively.

    Returns:
        {tap: (B, C * s * s) float32}.

    Raises:
        ValueError: If a tap is unknown, or its map is missing.
    """
    pooled = {}
    for tap in taps:
        if tap not in SIDES:
            raise ValueError(f"unknown tap {tap!r}; known: {', '.join(SIDES)}")
        source = "feature5" if tap == "avgpool" else tap
        if source not in maps:
            raise ValueError(f"tap {tap} needs {source}, but the model's stages are {', '.join(maps)}")
        pooled[tap] = _pool(as_tensor(maps[source]).float(), tap, pool).flatten(1)
    return pooled


def _pool(x: Tensor, tap: str, pool: Pool) -> Tensor:
    if tap != "avgpool" and pool == "specified":
        side, kernel, stride, padding = _AT_224[tap]
        if x.shape[2:] == (side, side):
            return F.avg_pool2d(x, kernel, stride, padding)
        warnings.warn(
            f"{tap} is {x.shape[2]}x{x.shape[3]}, not the {side}x{side} of 224 pixel images: pooled adaptively to "
            f"{SIDES[tap]}x{SIDES[tap]}, so results do not compare with published ones",
            stacklevel=3,
        )
    return F.adaptive_avg_pool2d(x, SIDES[tap])
