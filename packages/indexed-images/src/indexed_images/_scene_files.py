"""Helpers of the layouts of scenes: iterating scenes, image files, label maps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ._draw_scenes import Scene, draw_scenes

_BLOCK = 16  # scenes drawn, and held in memory, at a time


def each_scene(seed: int, split: str, indices: range, size: int) -> Iterator[Scene]:
    for start in range(0, len(indices), _BLOCK):
        yield from draw_scenes(seed, split, indices[start : start + _BLOCK], size)


def save_image(image: Tensor, path: Path) -> None:
    """Write uint8 (3, H, W) in the format of the suffix; JPEG with quality 95."""
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, quality=95)


def map_of(scene: Scene, values: list[int], ground: int, void: int) -> np.ndarray:
    """Return int64 (H, W): values[k] on object k, `void` on the one-pixel border of objects, `ground` elsewhere."""
    masks = scene.masks.numpy()
    taken = np.pad(masks.any(axis=0), 1)
    rows = taken[:-2] | taken[1:-1] | taken[2:]
    found = np.where(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:], void, ground)
    for mask, value in zip(masks, values, strict=True):
        found[mask] = value
    return found
