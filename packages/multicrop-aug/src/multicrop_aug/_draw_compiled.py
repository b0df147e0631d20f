"""The draw compiled by numba, one crop at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._cpu_jit import jit_exact, package_digest
from ._keys import U, exp, next_key, uniform
from ._laws import (
    AREA,
    CENTRED,
    FLAG_FIELDS,
    LANES,
    LEFT,
    NUMBER_FIELDS,
    ORDERS,
    PERMUTATION_FIELDS,
    RATIO,
    STARTS,
    STEPS,
    TOP,
    TRIES,
    GroupLaw,
)


def draw_crops(
    words: np.ndarray, samples: np.ndarray, first: int, sizes: np.ndarray, law: GroupLaw, *tensors: np.ndarray
) -> None:
    """Draw the crops of some images into the arrays of a group.

    Args:
        words: Seed and epoch, uint64.
        samples: (B,) uint64 sample indices.
        first: Number of the group's first crop.
        sizes: (B, 2) int64, height and width.
        law: What to draw from.
        tensors: Output arrays: box, resized, offset, flags, numbers, permutations; see `_draw`.
    """
    _draw_crops(words, samples, first, sizes, law.size, law.resize, law.boxes, law.flags, law.numbers, *tensors)


@jit_exact
def random_box(key, height, width, law):  # type: ignore[no-untyped-def]
    """Draw a box as torchvision's RandomResizedCrop.get_params does.

    If none of ten attempts fits the image, the box is the largest central one of an allowed ratio.
    """
    scale, scale_span, log_ratio, log_ratio_span, lowest, highest = law
    for t in range(TRIES):
        area = height * width * (scale + scale_span * uniform(key, U(AREA + t)))
        aspect = exp(log_ratio + log_ratio_span * uniform(key, U(RATIO + t)))
        w, h = np.rint(math.sqrt(area * aspect)), np.rint(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = math.floor((height - h + 1) * uniform(key, U(TOP + t)))
            left = math.floor((width - w + 1) * uniform(key, U(LEFT + t)))
            return top, left, h, w
    h = max(np.rint(width / lowest), 1.0) if width / height < lowest else height
    w = max(np.rint(height * highest), 1.0) if width / height > highest else width
    return math.floor((height - h) / 2), math.floor((width - w) / 2), h, w


def _compiled(version: str) -> Callable[..., Any]:
    @jit_exact
    def draw_crops(  # type: ignore[no-untyped-def]
        words, samples, first, sizes, size, resize, box_laws, flag_laws, number_laws,
        box, resized, offset, flags, numbers, permutations,
    ):  # fmt: skip
        _ = version  # makes it part of the closure; see package_digest
        epoch_key = U(0)
        for word in words:
            epoch_key = next_key(epoch_key, word)
        n_images = len(samples)
        n = n_images * len(resize)
        for b in range(n_images):
            sample_key, height, width = next_key(epoch_key, samples[b]), sizes[b, 0], sizes[b, 1]
            for v in range(len(resize)):
                key = next_key(sample_key, U(first + v))
                if resize[v]:
                    box[v, b] = 0, 0, height, width
                    short = min(height, width)
                    resized[v, b] = resize[v] * height // short, resize[v] * width // short
                    for axis in range(2):  # half to even, as Python's round
                        offset[v, b, axis] = int(np.rint((resized[v, b, axis] - size) / 2))
                else:
                    top, left, h, w = random_box(key, float(height), float(width), box_laws[v])
                    box[v, b] = int(top), int(left), int(h), int(w)
                    resized[v, b], offset[v, b] = size, 0
                for k in range(len(FLAG_FIELDS)):
                    flags[k, v, b] = uniform(key, FLAG_FIELDS[k]) < flag_laws[v, k]
                for k in range(len(NUMBER_FIELDS)):
                    u = uniform(key, NUMBER_FIELDS[k])
                    u = 2 * u - 1 if CENTRED[k] else u
                    at = STARTS[k] * n + STEPS[k] * (v * n_images + b) + LANES[k]
                    numbers[at] = number_laws[v, k, 0] + number_laws[v, k, 1] * u
                for k in range(len(PERMUTATION_FIELDS)):
                    permutations[k, v, b] = ORDERS[int(24 * uniform(key, PERMUTATION_FIELDS[k]))]

    return draw_crops


_draw_crops = _compiled(package_digest())
