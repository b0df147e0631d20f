"""Decode a whole set into one uint8 tensor."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.functional import interpolate

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
    if target != (height, width):
        image = interpolate(image[None], target, mode="bilinear", antialias=True)[0]
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return image[:, top : top + size, left : left + size]


def _wh(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
