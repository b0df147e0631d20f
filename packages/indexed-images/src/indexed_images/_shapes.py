"""`draw_shapes`: images of one textured shape each, drawn from a hash of (seed, split, index).

The images are the same on every machine. Random numbers come from hashes instead of a generator. All operations are
elementwise and rounded exactly by IEEE 754 (+ - * /, square root, floor, comparisons): there is no libm call, matrix
product or float sum over an axis.

Notation: n images, S pixels per side, M = 3 S samples per side. x points right and y down, in units of the image
height. Functions without an underscore are shared with `_draw_scenes.py`.
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
"""Names of the twelve classes of drawn images, in the order of their labels: "plain disc", "striped disc", ..."""
MIN_SIZE = 16
EXTENT = np.array([1.0, 1.2, 1.07, 1.0])  # largest distance of each shape's outline from its centre, in radii
SUPERSAMPLING = 3
_BATCH = 32  # images drawn together; their planes fit into the cache


@dataclass(frozen=True)
class ShapesBatch:
    """Drawn images of one object each.

    Attributes:
        images: uint8 (n, 3, S, S), RGB.
        labels: int64 (n,), indices into `SHAPES_CLASS_NAMES`.
        boxes: int64 (n, 4), x1 y1 x2 y2 in pixels, x2 and y2 exclusive; the exact extent of the mask.
        masks: bool (n, S, S), True where the object covers more than half of a pixel.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor


def draw_shapes(seed: int, split: str, indices: Iterable[int], size: int = 32) -> ShapesBatch:
    """Draw images of one textured shape each; an image depends on (seed, split, index, size) only.

    Args:
        seed: Seed of the data set.
        split: "train" or "val"; "test" gives the images of "val".
        indices: Indices of the images, 0 or above; any integers, a NumPy array or a tensor.
        size: Side S of the images in pixels, at least 16.

    Returns:
        Images, labels, boxes and masks, as tensors on the CPU.

    Raises:
        ValueError: If an argument is outside these limits.

    Example:
        ```python
        drawn = draw_shapes(seed=0, split="val", indices=range(8), size=32)
        drawn.images.shape  # (8, 3, 32, 32)
        ```
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
    """Return the labels of `draw_shapes`, int64 (n,), without drawing the images."""
    return drawn_labels(world_keys(seed, split, indices))


def world_keys(seed: int, split: str, indices: np.ndarray, stream: int = 0) -> np.ndarray:
    """Return uint64 keys (n,) from random stream `stream` for train and `stream + 1` for a held-out split."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    if (indices < 0).any():
        raise ValueError(f"indices must not be negative, got {indices.min()}")
    return keys(seed, stream + (split != "train"), indices)


def drawn_labels(image_keys: np.ndarray) -> np.ndarray:
    return np.floor(uniform(image_keys, 0, 0, len(SHAPES_CLASS_NAMES))).astype(np.int64)


def _draw(image_keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images, uint8 (n, 3, S, S), and masks, bool (n, S, S)."""
    labels, radius = drawn_labels(image_keys), uniform(image_keys, 1, 0.24, 0.38)
    reach = radius * EXTENT[labels // len(TEXTURES)]
    # places at which the whole object is inside the image
    x, y = (reach + uniform(image_keys, field, 0.0, 1.0) * (1 - 2 * reach) for field in (2, 3))

    grid = (np.arange(size * SUPERSAMPLING) + 0.5) / (size * SUPERSAMPLING)
    dx = (grid - x[:, None])[:, None, :]  # (n, 1, M)
    dy = (grid - y[:, None])[:, :, None]  # (n, M, 1)
    period = uniform(image_keys, 5, 0.13, 0.19)  # 4 to 6 pixels at size 32
    covered, marked = object_shares(object_looks(image_keys, labels, radius, period), dx, dy)

    object_colour, mark_colour, ground_colour = colours(image_keys, 10)
    scene = background(image_keys, 30, ground_colour, size, size)
    scene = paint(scene, covered, marked, object_colour, mark_colour)
    return photograph(image_keys, scene), covered[:, 0] > np.float32(0.5)


class Looks(NamedTuple):
    """The looks of n objects.

    Shapes and textures are indices (n,). `axes` (2, n) are in units of the radius, `texture_axes` (2, n) and `phases`
    (2, n) in units of the texture's period.
    """

    shape: np.ndarray
    texture: np.ndarray
    axes: np.ndarray
    texture_axes: np.ndarray
    phases: np.ndarray


def object_looks(keys: np.ndarray, labels: np.ndarray, radius: np.ndarray, period: np.ndarray) -> Looks:
    """Draw rotations and phases of objects with given labels, radii and texture periods, (n,) each."""
    axes, texture_axes = directions(uniform(keys, 4)) / radius, directions(uniform(keys, 8)) * (1 / period)
    phases = np.stack([uniform(keys, 6), uniform(keys, 7)])
    return Looks(*np.divmod(labels, len(TEXTURES)), axes, texture_axes, phases)


def object_shares(looks: Looks, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each pixel that objects cover, and that their marks cover, float32 (n, 1, H, W) each.

    dx (n, 1, 3 W) and dy (n, 3 H, 1) are the offsets of the samples from the centres. Marks are the stripes or checks.
    """
    inside = inside_shape(dx, dy, looks.shape, looks.axes)
    marked = inside & on_texture(dx, dy, looks.texture, looks.texture_axes, looks.phases)
    return _pool(inside), _pool(marked)


def photograph(keys: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Apply light, blur and noise to painted scenes (n, 3, H, W) and convert them to uint8."""
    scene = noise(keys, 43, blur(keys, 42, light(keys, 40, scene)))
    return np.floor(np.minimum(np.maximum(scene, 0), 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _pool(samples: np.ndarray) -> np.ndarray:
    """Average bool samples (n, 3 H, 3 W) over pixels, float32 (n, 1, H, W)."""
    bits, s = samples.view(np.uint8), SUPERSAMPLING
    rows = bits[:, 0::s] + bits[:, 1::s] + bits[:, 2::s]
    counts = rows[:, :, 0::s] + rows[:, :, 1::s] + rows[:, :, 2::s]
    return (counts.astype(np.float32) / np.float32(s * s))[:, None]


def extents(masks: np.ndarray) -> np.ndarray:
    """Return the boxes of masks (n, H, W) as int64 (n, 4): x1 y1 x2 y2, x2 and y2 exclusive."""
    n, height, width = masks.shape
    columns, rows = masks.max(axis=1), masks.max(axis=2)
    edges = [columns.argmax(1), rows.argmax(1), width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)]
    return np.stack(edges, axis=1).astype(np.int64).reshape(n, 4)
