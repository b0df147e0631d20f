"""Decode a whole set into one uint8 tensor."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

_LONG = 4  # images with a longer side than so many short sides are cropped before they are resized
BLOCK = 256  # images per task; `shapes:` draws in the same blocks, so no two threads draw the same block


def load_resident(
    image: Callable[[int], Tensor],
    n_images: int,
    device: str | torch.device,
    size: int | None,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Do the work of `IndexedImages.resident`; `image` returns image i."""
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    first = image(0) if size is None else torch.empty(3, size, size, dtype=torch.uint8)
    images = torch.empty(n_images, *first.shape, dtype=torch.uint8)

    def fill(start: int) -> int:
        block = range(start, min(start + BLOCK, n_images))
        for i in block:
            one = image(i) if size is None else resize_and_crop(image(i), size)
            if one.shape != images.shape[1:]:
                raise ValueError(
                    f"images differ in size: image 0 is {_wh(first)}, image {i} is {_wh(one)}: pass size=PIXELS"
                )
            images[i] = one
        return len(block)

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        try:
            n_done = 0
            for n in pool.map(fill, range(0, n_images, BLOCK)):
                n_done += n
                if progress is not None:
                    progress(n_done, n_images)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return images.to(device)


def resize_and_crop(image: Tensor, size: int) -> Tensor:
    """Resize the short side of uint8 (3, H, W) to `size` (bilinear, antialiased), then crop the centre square."""
    height, width = image.shape[1:]
    short = min(height, width)
    target = (int(size * height / short), int(size * width / short))
    if max(target) > _LONG * size:
        return _resized_centre(image, size, target)
    if target != (height, width):
        image = interpolate(image[None], target, mode="bilinear", antialias=True)[0]
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return image[:, top : top + size, left : left + size]


def _resized_centre(image: Tensor, size: int, target: tuple[int, int]) -> Tensor:
    """Return the same crop of a long image, without resizing what is cropped away: that may take gigabytes."""
    axis = 1 if target[0] > target[1] else 2
    length, resized = image.shape[axis], target[axis - 1]
    scale = length / resized
    first = round((resized - size) / 2) * scale  # of the crop, in pixels of the image
    last = first + size * scale
    margin = 1 + scale  # the filter reaches one pixel of the result beyond
    low, high = max(0, math.floor(first - margin)), min(length, math.ceil(last + margin))
    cut = image.narrow(axis, low, high - low).permute(1, 2, 0).contiguous()
    box = (
        (0.0, first - low, float(cut.shape[1]), last - low)
        if axis == 1
        else (first - low, 0.0, last - low, float(cut.shape[0]))
    )
    small = Image.fromarray(cut.numpy()).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def _wh(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
