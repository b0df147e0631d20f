"""`draw_shapes`: images of one textured shape each, drawn from a hash of (seed, split, index).

The world is the same on every machine: hashes instead of generator streams, and only operations that IEEE 754 rounds
exactly (+ - * /, square root, floor, comparisons), elementwise; no libm, no matrix product, no float sum over an axis.
Coordinates: x to the right and y down, in heights of the image. n images, S pixels a side, M = 3 S samples a side. What
scenes of several objects (`_draw_scenes.py`) have in common with these images is public in this file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._hash import keys, uniform
from ._scene import background, blur, colours, directions, inside_shape, light, noise, on_texture, paint

SHAPES = ("disc", "triangle", "cross", "ring")
TEXTURES = ("plain", "striped", "checked")
SHAPES_CLASS_NAMES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)
MIN_SIZE = 16
EXTENT = np.array([1.0, 1.2, 1.07, 1.0])  # farthest point of each shape from its centre, in radii
SUPERSAMPLING = 3
_BATCH = 32  # images drawn together: their planes stay in the cache


@dataclass(frozen=True)
class ShapesBatch:
    """images uint8 (n, 3, S, S); labels int64 (n,); boxes int64 (n, 4), x1 y1 x2 y2 in pixels, x2 and y2 exclusive, the
    exact extent of the mask; masks bool (n, S, S), True where the object covers more than half of a pixel."""

    images: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor


def draw_shapes(seed: int, split: str, indices: Iterable[int], size: int = 32) -> ShapesBatch:
    """Draw images `indices` of a world: each depends on (seed, split, index, size) alone.

    split: "train" or "val" ("test" is the same images). size: S >= 16. Raises ValueError outside of these.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    index = np.asarray(list(indices), dtype=np.int64)
    image_keys = world_keys(seed, split, index)
    images = np.empty((len(index), 3, size, size), dtype=np.uint8)
    masks = np.empty((len(index), size, size), dtype=bool)
    for start in range(0, len(index), _BATCH):
        batch = slice(start, start + _BATCH)
        images[batch], masks[batch] = _draw(image_keys[batch], size)
    return ShapesBatch(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(drawn_labels(image_keys)),
        boxes=torch.from_numpy(extents(masks)),
        masks=torch.from_numpy(masks),
    )


def shape_labels(seed: int, split: str, indices: np.ndarray) -> np.ndarray:
    """The labels `draw_shapes` would give, int64 (n,), without drawing."""
    return drawn_labels(world_keys(seed, split, indices))


def world_keys(seed: int, split: str, indices: np.ndarray, stream: int = 0) -> np.ndarray:
    """uint64 (n,), of `stream` for train and of the next one for what is held out."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    if (indices < 0).any():
        raise ValueError(f"indices must not be negative, got {indices.min()}")
    return keys(seed, stream + (split != "train"), indices)


def drawn_labels(image_keys: np.ndarray) -> np.ndarray:
    return np.floor(uniform(image_keys, 0, 0, len(SHAPES_CLASS_NAMES))).astype(np.int64)


def _draw(image_keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 3, S, S) and bool (n, S, S)."""
    labels, radius = drawn_labels(image_keys), uniform(image_keys, 1, 0.24, 0.38)
    reach = radius * EXTENT[labels // len(TEXTURES)]
    # the whole object is in view
    x, y = (reach + uniform(image_keys, field, 0.0, 1.0) * (1 - 2 * reach) for field in (2, 3))

    grid = (np.arange(size * SUPERSAMPLING) + 0.5) / (size * SUPERSAMPLING)
    dx = (grid - x[:, None])[:, None, :]  # (n, 1, M)
    dy = (grid - y[:, None])[:, :, None]  # (n, M, 1)
    period = uniform(image_keys, 5, 0.13, 0.19)  # 4 to 6 pixels of 32
    covered, marked = object_shares(object_looks(image_keys, labels, radius, period), dx, dy)

    object_colour, mark_colour, ground_colour = colours(image_keys, 10)
    scene = background(image_keys, 30, ground_colour, size, size)
    scene = paint(scene, covered, marked, object_colour, mark_colour)
    return photograph(image_keys, scene), covered[:, 0] > np.float32(0.5)


class Looks(NamedTuple):
    """What n objects look like: shape, texture (n,); axes, texture_axes (2, n) in radii, in periods; phases (2, n)."""

    shape: np.ndarray
    texture: np.ndarray
    axes: np.ndarray
    texture_axes: np.ndarray
    phases: np.ndarray


def object_looks(keys: np.ndarray, labels: np.ndarray, radius: np.ndarray, period: np.ndarray) -> Looks:
    """Objects turned at random; radius and period of the texture (n,)."""
    axes, texture_axes = directions(uniform(keys, 4)) / radius, directions(uniform(keys, 8)) * (1 / period)
    phases = np.stack([uniform(keys, 6), uniform(keys, 7)])
    return Looks(*np.divmod(labels, len(TEXTURES)), axes, texture_axes, phases)


def object_shares(looks: Looks, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of each pixel that objects cover and that their marks do, float32 (n, 1, H, W).

    dx (n, 1, 3 W) and dy (n, 3 H, 1): offsets of the samples from the centres.
    """
    inside = inside_shape(dx, dy, looks.shape, looks.axes)
    marked = inside & on_texture(dx, dy, looks.texture, looks.texture_axes, looks.phases)
    return _pool(inside), _pool(marked)


def photograph(keys: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Light, blur and noise over a painted scene (n, 3, H, W), as uint8."""
    scene = noise(keys, 43, blur(keys, 42, light(keys, 40, scene)))
    return np.floor(np.minimum(np.maximum(scene, 0), 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _pool(samples: np.ndarray) -> np.ndarray:
    """bool (n, 3 H, 3 W) to the share of each pixel, float32 (n, 1, H, W)."""
    bits, s = samples.view(np.uint8), SUPERSAMPLING  # 3
    rows = bits[:, 0::s] + bits[:, 1::s] + bits[:, 2::s]
    counts = rows[:, :, 0::s] + rows[:, :, 1::s] + rows[:, :, 2::s]
    return (counts.astype(np.float32) / np.float32(s * s))[:, None]


def extents(masks: np.ndarray) -> np.ndarray:
    """The boxes of masks (n, H, W): int64 (n, 4), x1 y1 x2 y2, x2 and y2 exclusive."""
    n, height, width = masks.shape
    columns, rows = masks.max(axis=1), masks.max(axis=2)
    edges = [columns.argmax(1), rows.argmax(1), width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)]
    return np.stack(edges, axis=1).astype(np.int64).reshape(n, 4)
