"""The same for other people's data sets: a transform of one image, and the collate function for its lists."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from ._decode import decode_reduced, decode_rgb, image_size, rgb_pixels
from ._plan import CropPlan
from ._recipe import Recipe
from ._render import render


class MultiCrop:
    """A torchvision-style transform: one image in, the list of its V crops (3, S, S) out.

    Pass `index` (position in the data set) and `epoch` to get the crops that `Recipe.draw` and `render` give that
    sample anywhere. Without an index, images are numbered as they come, and in a worker process of a DataLoader the
    worker's seed takes the place of the epoch: draws are fresh in each epoch, and the same again only if torch is
    seeded and the number of workers is the same.

    reduced_decode: decode a JPEG at 1/2, 1/4 or 1/8 of its size where every crop's box still has as many pixels as the
    crop. Faster for large photographs, but pixels change: boxes move by up to half a pixel of the reduced image and the
    decoder's filter comes before ours.

    The kernels are compiled, or read from their cache, when the first transform is made, so worker processes find them.
    """

    def __init__(self, recipe: Recipe, seed: int = 0, *, reduced_decode: bool = False) -> None:
        self.recipe = recipe
        self.seed = seed
        self.reduced_decode = reduced_decode
        self._n_seen = 0
        self(torch.zeros(3, 1, 1, dtype=torch.uint8), index=0)

    def __call__(self, image: Image.Image | Tensor | bytes, index: int | None = None, epoch: int = 0) -> list[Tensor]:
        """Crops of a PIL image (any mode), a uint8 tensor (3, H, W) or an encoded JPEG, PNG, ... file."""
        if index is None:
            index, epoch = self._next_key(epoch)
        if isinstance(image, bytes) and self.reduced_decode:
            pixels, plan = decode_reduced(image, self._draw(index, epoch, image_size(image)))
        else:
            pixels = _pixels(image)
            plan = self._draw(index, epoch, pixels.shape[-2:])
        return [crop[0] for crop in render([pixels], plan, backend="cpu")]

    def _draw(self, index: int, epoch: int, size: Sequence[int]) -> CropPlan:
        return self.recipe.draw(torch.tensor([index]), epoch, tuple(size), self.seed)

    def _next_key(self, epoch: int) -> tuple[int, int]:
        worker = get_worker_info()
        self._n_seen += 1
        return self._n_seen - 1, worker.seed if worker else epoch


def collate(samples: Sequence[Any]) -> Any:
    """A batch of `MultiCrop` lists: V tensors (B, 3, S_v, S_v).

    samples: lists of crops, or tuples (crops, label, ...), which give (V tensors, labels, ...).
    """
    if not isinstance(samples[0], tuple):
        return default_collate(list(samples))  # in a worker process it stacks straight into shared memory
    return tuple(default_collate(list(values)) for values in zip(*samples, strict=True))


def _pixels(image: Image.Image | Tensor | bytes) -> Tensor:
    if isinstance(image, bytes):
        return decode_rgb(image)
    if isinstance(image, Image.Image):
        return rgb_pixels(image)
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a PIL image, a uint8 tensor or encoded bytes, got {type(image).__name__}")
    if image.ndim != 3:
        raise ValueError(f"image must be (3, H, W), got {tuple(image.shape)}: one image at a time, or use render")
    return image
