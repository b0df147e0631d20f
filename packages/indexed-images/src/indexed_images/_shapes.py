"""`draw_shapes`: images of one textured shape each, drawn from a hash of (seed, split, index).

The world is the same on every machine: hashes instead of generator streams, and only operations that IEEE 754 rounds
exactly (+ - * /, square root, floor, comparisons), elementwise; no libm, no matrix product, no float sum over an axis.
Coordinates run over [0, 1] across the image, x to the right, y down. n images, S pixels a side, M = 3 S samples a side.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._hash import keys, uniform
from ._scene import background, blur, colours, directions, inside_shape, light, noise, on_texture, paint

SHAPES = ("disc", "triangle", "cross", "ring")
TEXTURES = ("plain", "striped", "checked")
SHAPES_CLASS_NAMES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)
MIN_SIZE = 16
_EXTENT = np.array([1.0, 1.2, 1.07, 1.0])  # farthest point of each shape from its centre, in radii
_SUPERSAMPLING = 3
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
    image_keys = _keys(seed, split, index)
    images = np.empty((len(index), 3, size, size), dtype=np.uint8)
    masks = np.empty((len(index), size, size), dtype=bool)
    for start in range(0, len(index), _BATCH):
        batch = slice(start, start + _BATCH)
        images[batch], masks[batch] = _draw(image_keys[batch], size)
    return ShapesBatch(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(_labels(image_keys)),
        boxes=torch.from_numpy(_boxes(masks)),
        masks=torch.from_numpy(masks),
    )


def shape_labels(seed: int, split: str, indices: np.ndarray) -> np.ndarray:
    """The labels `draw_shapes` would give, int64 (n,), without drawing."""
    return _labels(_keys(seed, split, indices))


def _keys(seed: int, split: str, indices: np.ndarray) -> np.ndarray:
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    if (indices < 0).any():
        raise ValueError(f"indices must not be negative, got {indices.min()}")
    return keys(seed, 0 if split == "train" else 1, indices)


def _labels(image_keys: np.ndarray) -> np.ndarray:
    return np.floor(uniform(image_keys, 0, 0, len(SHAPES_CLASS_NAMES))).astype(np.int64)


def _draw(image_keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 3, S, S) and bool (n, S, S)."""
    shape, texture = np.divmod(_labels(image_keys), len(TEXTURES))
    radius = uniform(image_keys, 1, 0.24, 0.38)
    reach = radius * _EXTENT[shape]
    # the whole object is in view
    x, y = (reach + uniform(image_keys, field, 0.0, 1.0) * (1 - 2 * reach) for field in (2, 3))

    grid = (np.arange(size * _SUPERSAMPLING) + 0.5) / (size * _SUPERSAMPLING)
    dx = (grid - x[:, None])[:, None, :]  # (n, 1, M)
    dy = (grid - y[:, None])[:, :, None]  # (n, M, 1)
    inside = inside_shape(dx, dy, shape, directions(uniform(image_keys, 4)) / radius)
    frequency = 1 / uniform(image_keys, 5, 0.13, 0.19)  # periods per image width: 4 to 6 pixels of 32
    phases = np.stack([uniform(image_keys, 6), uniform(image_keys, 7)])
    marked = inside & on_texture(dx, dy, texture, directions(uniform(image_keys, 8)) * frequency, phases)
    covered = _pool(inside)

    object_colour, mark_colour, ground_colour = colours(image_keys, 10)
    scene = background(image_keys, 30, ground_colour, size)
    scene = paint(scene, covered, _pool(marked), object_colour, mark_colour)
    scene = noise(image_keys, 43, blur(image_keys, 42, light(image_keys, 40, scene)))
    pixels = np.floor(np.minimum(np.maximum(scene, 0), 1) * np.float32(255) + np.float32(0.5))
    return pixels.astype(np.uint8), covered[:, 0] > np.float32(0.5)


def _pool(samples: np.ndarray) -> np.ndarray:
    """bool (n, M, M) to the share of each pixel, float32 (n, 1, S, S)."""
    bits, s = samples.view(np.uint8), _SUPERSAMPLING  # 3
    rows = bits[:, 0::s] + bits[:, 1::s] + bits[:, 2::s]
    counts = rows[:, :, 0::s] + rows[:, :, 1::s] + rows[:, :, 2::s]
    return (counts.astype(np.float32) / np.float32(s * s))[:, None]


def _boxes(masks: np.ndarray) -> np.ndarray:
    n, size, _ = masks.shape
    columns, rows = masks.max(axis=1), masks.max(axis=2)
    edges = [columns.argmax(1), rows.argmax(1), size - columns[:, ::-1].argmax(1), size - rows[:, ::-1].argmax(1)]
    return np.stack(edges, axis=1).astype(np.int64).reshape(n, 4)
