"""The draw: from distributions and keys to the tensors of a plan, on the CPU.

It is compiled where numba can be imported (0.1 us per crop). Otherwise NumPy draws the same bits, five times slower.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ._laws import N_NUMBERS, NUMBERS_BEFORE, GroupLaw
from ._numba import has_numba
from ._operations import FLAGS, NUMBERS, PERMUTATIONS, CropGroup


def draw_groups(
    laws: tuple[GroupLaw, ...], indices: Tensor, epoch: int, sizes: Tensor, seed: int
) -> tuple[CropGroup, ...]:
    """Return the groups of a plan, for checked indices (B,) and sizes (B, 2), int64 on the CPU."""
    words = np.array([word % (1 << 64) for word in (seed, epoch)], np.uint64)
    samples, extents = indices.contiguous().numpy().view(np.uint64), sizes.contiguous().numpy()
    draw_crops, first, groups = _drawer(), 0, []
    for law in laws:
        groups.append(_draw_group(draw_crops, law, words, samples, first, extents))
        first += len(law.resize)
    return tuple(groups)


def _draw_group(
    draw_crops: Callable[..., None],
    law: GroupLaw,
    words: np.ndarray,
    samples: np.ndarray,
    first: int,
    sizes: np.ndarray,
) -> CropGroup:
    shape = len(law.resize), len(samples)
    box, resized, offset = (np.empty((*shape, last), np.int32) for last in (4, 2, 2))
    flags = np.empty((len(FLAGS), *shape), np.bool_)
    numbers = np.empty(N_NUMBERS * shape[0] * shape[1], np.float32)
    permutations = np.empty((len(PERMUTATIONS), *shape, 4), np.uint8)
    draw_crops(words, samples, first, sizes, law, box, resized, offset, flags, numbers, permutations)

    arrays: dict[str, np.ndarray] = {"box": box, "resized": resized, "offset": offset}
    arrays |= {draw.tensor: flag for draw, flag in zip(FLAGS, flags, strict=True)}
    arrays |= {draw.tensor: order for draw, order in zip(PERMUTATIONS, permutations, strict=True)}
    planes = numbers.reshape(N_NUMBERS, *shape)
    for draw, before in zip(NUMBERS, NUMBERS_BEFORE, strict=True):
        arrays[draw.tensor] = (
            planes[before] if draw.n == 1 else planes[before : before + draw.n].reshape(*shape, draw.n)
        )
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return CropGroup(size=law.size, interpolation=law.interpolation, **tensors)


def _drawer() -> Callable[..., None]:
    """Return the compiled draw, or NumPy's if numba is missing."""
    if has_numba():
        from ._draw_compiled import draw_crops
    else:
        from ._draw_numpy import draw_crops
    return draw_crops
