"""`MultiCrop`, a transform of one image for any data set, and `collate`, which batches its results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from ._arrays import as_tensor
from ._decode import decode_reduced, decode_rgb, image_size, rgb_pixels
from ._plan import CropPlan
from ._recipe import Recipe
from ._render import render


class MultiCrop:
    """A torchvision-style transform: one image in, the list of its V crops (3, S, S) out.

    With `index` (position in the data set) and `epoch`, the crops are those of `Recipe.draw` and `render`, whatever the
    number of workers. Without an index, the transform counts the images of its own process. In a worker process of a
    DataLoader the worker's seed then replaces the epoch: each epoch draws different crops, and they repeat only if
    torch is seeded and the number of workers is the same.

    Making a transform compiles the kernels, or reads them from their cache, so that worker processes find them.

    Args:
        recipe: What to draw.
        seed: Any integer.
        reduced_decode: Decode a JPEG at 1/2, 1/4 or 1/8 of its size if every box still has at least as many pixels as
            its crop. This is faster for large photographs, but changes pixels: boxes move by up to half a pixel of the
            reduced image, and the decoder's filter is applied before ours.

    Example:
        ```python
        data = ImageFolder(root, transform=MultiCrop(swav()))
        crops, labels = next(iter(DataLoader(data, batch_size=256)))  # crops: V tensors (B, 3, S, S)
        ```
    """

    def __init__(self, recipe: Recipe, seed: int = 0, *, reduced_decode: bool = False) -> None:
        self.recipe = recipe
        self.seed = seed
        self.reduced_decode = reduced_decode
        self._n_seen = 0
        self(torch.zeros(3, 1, 1, dtype=torch.uint8), index=0)

    def __call__(
        self, image: Image.Image | Tensor | np.ndarray | bytes, index: int | None = None, epoch: int = 0
    ) -> list[Tensor]:
        """Return the crops of one image.

        Args:
            image: A PIL image of any mode, a uint8 tensor or array (3, H, W), or an encoded JPEG, PNG, ... file.
            index: Position in the data set; None counts.
            epoch: Epoch of the draw.

        Raises:
            TypeError: The image is of another type.
            ValueError: The image has another shape or dtype.
        """
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

    def __repr__(self) -> str:
        return f"MultiCrop({self.recipe!r}, seed={self.seed}, reduced_decode={self.reduced_decode})"

    def _next_key(self, epoch: int) -> tuple[int, int]:
        worker = get_worker_info()
        self._n_seen += 1
        return self._n_seen - 1, worker.seed if worker else epoch


def collate(samples: Sequence[Any]) -> Any:
    """Batch the lists of `MultiCrop`.

    Args:
        samples: Lists of V crops, or tuples (crops, label, ...).

    Returns:
        V tensors (B, 3, S, S), or a tuple (V tensors, labels, ...).
    """
    if not isinstance(samples[0], tuple):
        return default_collate(list(samples))  # in a worker process it stacks straight into shared memory
    return tuple(default_collate(list(values)) for values in zip(*samples, strict=True))


def _pixels(image: Image.Image | Tensor | np.ndarray | bytes) -> Tensor:
    if isinstance(image, bytes):
        return decode_rgb(image)
    if isinstance(image, Image.Image):
        return rgb_pixels(image)
    image = as_tensor(image)
    if not isinstance(image, Tensor):
        raise TypeError(
            f"image must be a PIL image, a uint8 tensor or array, or encoded bytes, got {type(image).__name__}"
        )
    if image.ndim != 3:
        raise ValueError(f"image must be (3, H, W), got {tuple(image.shape)}: one image at a time, or use render")
    return image
