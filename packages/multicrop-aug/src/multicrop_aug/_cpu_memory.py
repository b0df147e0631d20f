"""Describes where the pixels of a batch lie in memory, so that the CPU kernels can read them in place."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ._packed import PackedImages

# columns of Memory.layouts; steps are in bytes
START, ROW_STEP, PIXEL_STEP, CHANNEL_STEP, HEIGHT, WIDTH = range(6)


class Memory(NamedTuple):
    """The images of a batch, all in one piece of memory or each in its own.

    Attributes:
        pieces: (bytes,) uint8 arrays: one, or one per image.
        layouts: (B, 6) int64, one row per image. The step of a pixel is 1 (planes) or 3 (channels last).
    """

    pieces: list[np.ndarray]
    layouts: np.ndarray


def memory_of(images: Tensor | PackedImages | Sequence[Tensor], rows: Tensor | None) -> Memory:
    """Return the memory of the images; rows (B,) int64 selects some of them, None takes all."""
    if isinstance(images, Tensor):
        return _of_tensor(images, np.arange(len(images)) if rows is None else rows.numpy())
    if isinstance(images, PackedImages):
        places = images.places.numpy() if rows is None else images.places.numpy()[rows.numpy()]
        start, height, width = places.T
        three, one = np.full_like(start, 3), np.ones_like(start)
        return Memory([images.pixels.numpy()], np.stack((start, 3 * width, three, one, height, width), -1))
    first = np.zeros(1, np.int64)
    alone = [_of_tensor(images[i][None], first) for i in (range(len(images)) if rows is None else rows.tolist())]
    layouts = np.concatenate([np.empty((0, 6), np.int64), *(memory.layouts for memory in alone)])
    return Memory([memory.pieces[0] for memory in alone], layouts)


def _of_tensor(images: Tensor, rows: np.ndarray) -> Memory:
    """Return the memory of images (N, 3, H, W), copied if pixels of a row are neither adjacent nor 3 bytes apart."""
    if images.stride(3) != 1 and (images.stride(3), images.stride(1)) != (3, 1):
        images = images.contiguous()
    n, _, height, width = images.shape
    image_step, channel_step, row_step, pixel_step = images.stride()
    last = (n - 1) * image_step + 2 * channel_step + (height - 1) * row_step + (width - 1) * pixel_step
    flat = images.as_strided((last + 1 if n else 0,), (1,))
    layouts = np.empty((len(rows), 6), np.int64)
    layouts[:, START] = rows * image_step
    layouts[:, ROW_STEP:] = row_step, pixel_step, channel_step, height, width
    return Memory([flat.numpy()], layouts)
