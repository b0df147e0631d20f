"""`draw_scenes`: images of several textured shapes, drawn from a hash by the exact operations of `_shapes.py`.

Objects are placed from front to back, so that a new one never changes those already there, and painted from back to
front. All objects are dark, so a rim of one pixel in the colour of the ground separates each from what is behind it.

Notation: a scene has H x W pixels; the window of an object is the part of the scene around it, h x w pixels.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._hash import hash64, uniform
from ._scene import background, colours, paint
from ._shapes import (
    EXTENT,
    SUPERSAMPLING,
    Looks,
    drawn_labels,
    extents,
    object_looks,
    object_shares,
    photograph,
    world_keys,
)

MIN_SCENE_SIZE = 32
_MOST_OBJECTS = 5
_TRIES = 4  # places tried per object
_LEAST_VISIBLE = 0.4  # share of an object's area that must be visible
_STREAM = 3  # random stream, and 4 for held-out splits; draw_shapes uses 0 and 1, the split of the digits 2


@dataclass(frozen=True)
class Scene:
    """A drawn image with k objects, the front one first.

    Attributes:
        image: uint8 (3, H, W), RGB.
        labels: int64 (k,), indices into `SHAPES_CLASS_NAMES`.
        boxes: int64 (k, 4), x1 y1 x2 y2 in pixels, x2 and y2 exclusive; the exact extents of the masks.
        masks: bool (k, H, W), True where the object covers more than half of a pixel and is not hidden. Masks neither
            overlap nor touch.
    """

    image: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor


@dataclass(frozen=True)
class _Object:
    label: int
    window: tuple[slice, slice]
    mask: np.ndarray  # bool (h, w)
    covered: np.ndarray  # float32 (1, 1, h, w), share of each pixel
    marked: np.ndarray  # the same for its marks
    rimmed: np.ndarray  # the same for the object with its rim
    colour: np.ndarray  # (1, 3)
    mark: np.ndarray  # (1, 3)


def draw_scenes(seed: int, split: str, indices: Iterable[int], size: int = 128) -> list[Scene]:
    """Draw scenes of one to five objects; a scene depends on (seed, split, index, size) only.

    The radius of an object is a ninth to a third of the height, and at least 40 % of its area is visible.

    Args:
        seed: Seed of the data set.
        split: "train" or "val"; "test" gives the scenes of "val".
        indices: Indices of the scenes, 0 or above; any integers, a NumPy array or a tensor.
        size: Height H of a scene in pixels, at least 32. The width is 4/3 H.

    Returns:
        One scene per index, as tensors on the CPU.

    Raises:
        ValueError: If an argument is outside these limits.
    """
    if size < MIN_SCENE_SIZE:
        raise ValueError(f"size of a scene must be at least {MIN_SCENE_SIZE} pixels, got {size}")
    keys = world_keys(seed, split, np.asarray(list(indices), dtype=np.int64), _STREAM)
    return [_draw(keys[i : i + 1], size, size * 4 // 3) for i in range(len(keys))]


def _draw(key: np.ndarray, height: int, width: int) -> Scene:
    objects = _put_down(key, height, width)
    ground = colours(key, 10)[2]
    painting = background(key, 30, ground, height, width)
    masks = np.zeros((len(objects), height, width), dtype=bool)
    for mask, item in zip(masks[::-1], objects[::-1], strict=True):
        mask[item.window] = item.mask
        part = (slice(None), slice(None), *item.window)
        cleared = paint(painting[part], item.rimmed, np.zeros_like(item.rimmed), ground, ground)
        painting[part] = paint(cleared, item.covered, item.marked, item.colour, item.mark)
    return Scene(
        image=torch.from_numpy(photograph(key, painting)[0]),
        labels=torch.tensor([item.label for item in objects]),
        boxes=torch.from_numpy(extents(masks)),
        masks=torch.from_numpy(masks),
    )


def _put_down(key: np.ndarray, height: int, width: int) -> list[_Object]:
    """Place the objects of a scene, the front one first; leave out one that is hidden too much at all places tried."""
    free = np.ones((height, width), dtype=bool)
    objects: list[_Object] = []
    for tries in _candidates(key, height, width):
        for item in tries:
            seen = item.mask & free[item.window]
            if seen.sum() >= _LEAST_VISIBLE * item.mask.sum():
                free[item.window] &= item.rimmed[0, 0] <= np.float32(0.5)
                objects.append(replace(item, mask=seen))
                break
    return objects


def _candidates(key: np.ndarray, height: int, width: int) -> Iterator[Iterator[_Object]]:
    """Yield, for each object of a scene, the unhidden object at one place after the other, drawn lazily."""
    count = 1 + int(uniform(key, 0, 0, _MOST_OBJECTS)[0])
    keys = hash64(key, 100 + np.arange(count))
    labels, radius = drawn_labels(keys), 0.33 / uniform(keys, 1, 1.0, 3.0)  # more small objects than large ones
    looks = object_looks(keys, labels, radius, radius * uniform(keys, 5, 0.5, 0.65))
    reach = radius * EXTENT[looks.shape]
    places = uniform(keys, 100 + np.arange(2 * _TRIES)[:, None]).reshape(_TRIES, 2, count)
    x, y = (reach + places[:, axis] * (end - 2 * reach) for axis, end in enumerate((width / height, 1.0)))
    colour, mark, _ = colours(keys, 10)

    def at(k: int, attempt: int) -> _Object:
        own = slice(k, k + 1)
        columns, rows = (
            _window(float(centre[attempt, k]), float(reach[k]), height, end)
            for centre, end in ((x, width), (y, height))
        )
        dx, dy = (_samples(part, height) - centre[attempt, k] for part, centre in ((columns, x), (rows, y)))
        look = Looks(*(part[..., own] for part in looks))
        covered, marked = object_shares(look, dx[None, None, :], dy[None, :, None])
        mask = covered[0, 0] > np.float32(0.5)
        return _Object(
            int(labels[k]), (rows, columns), mask, covered, marked, _widened(covered), colour[own], mark[own]
        )

    for k in range(count):
        yield map(partial(at, k), range(_TRIES))


def _window(centre: float, reach: float, height: int, end: int) -> slice:
    """Return the pixels along an axis that an object and its rim may touch."""
    first, last = math.floor((centre - reach) * height), math.floor((centre + reach) * height)
    return slice(max(first - 1, 0), min(last + 2, end))


def _samples(pixels: slice, height: int) -> np.ndarray:
    first, last = pixels.start * SUPERSAMPLING, pixels.stop * SUPERSAMPLING
    return (np.arange(first, last) + 0.5) / (height * SUPERSAMPLING)


def _widened(shares: np.ndarray) -> np.ndarray:
    """Dilate by one pixel: the maximum of each pixel and its eight neighbours, float32 (1, 1, h, w)."""
    padded = np.pad(shares, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = np.maximum(np.maximum(padded[:, :, :-2], padded[:, :, 1:-1]), padded[:, :, 2:])
    return np.maximum(np.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
