"""The draw by NumPy, all crops at once, for machines without numba. It gives the same bits as `_draw_compiled`."""

import numpy as np

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
    """Draw the crops of some images; see `_draw_compiled.draw_crops`."""
    box, resized, offset, flags, numbers, permutations = tensors
    n_crops = len(law.resize)
    key = np.zeros((1, 1), np.uint64)
    for word in words:
        key = next_key(key, word)
    keys = next_key(next_key(key, samples), np.arange(first, first + n_crops, dtype=np.uint64)[:, None])  # (n, B)

    for v in range(n_crops):
        if law.resize[v]:
            box[v, :, :2], box[v, :, 2:] = 0, sizes
            resized[v] = law.resize[v] * sizes // sizes.min(-1, keepdims=True)
            offset[v] = np.rint((resized[v] - law.size) / 2)  # half to even, as Python's round
        else:
            box[v] = random_boxes(keys[v], sizes, law.boxes[v])
            resized[v], offset[v] = law.size, 0
    flags[:] = uniform(keys, FLAG_FIELDS[:, None, None]) < law.flags.T[:, :, None]
    u = uniform(keys, NUMBER_FIELDS[:, None, None])  # (numbers, n, B)
    u = np.where(CENTRED[:, None, None], 2 * u - 1, u)
    values = law.numbers[:, :, 0].T[:, :, None] + law.numbers[:, :, 1].T[:, :, None] * u
    for k in range(len(values)):
        tensor = numbers[STARTS[k] * keys.size :][: STEPS[k] * keys.size].reshape(*keys.shape, STEPS[k])
        tensor[..., LANES[k]] = values[k]
    permutations[:] = ORDERS[(24 * uniform(keys, PERMUTATION_FIELDS[:, None, None])).astype(np.int64)]


def random_boxes(keys: np.ndarray, sizes: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Return boxes (B, 4) float64 of B streams; see `_draw_compiled.random_box`."""
    scale, scale_span, log_ratio, log_ratio_span, lowest, highest = law
    height, width = sizes.astype(np.float64).T
    tries = np.arange(TRIES, dtype=np.uint64)[:, None]
    area = height * width * (scale + scale_span * uniform(keys, tries + U(AREA)))  # (tries, B)
    aspect = exp(log_ratio + log_ratio_span * uniform(keys, tries + U(RATIO)))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)

    first, each = fits.argmax(0), np.arange(len(keys))
    h, w = h[first, each], w[first, each]
    top = np.floor((height - h + 1) * uniform(keys, first.astype(np.uint64) + U(TOP)))
    left = np.floor((width - w + 1) * uniform(keys, first.astype(np.uint64) + U(LEFT)))

    whole_h = np.where(width / height < lowest, np.maximum(np.rint(width / lowest), 1), height)
    whole_w = np.where(width / height > highest, np.maximum(np.rint(height * highest), 1), width)
    central = np.floor((height - whole_h) / 2), np.floor((width - whole_w) / 2), whole_h, whole_w
    return np.where(fits.any(0), (top, left, h, w), central).T
