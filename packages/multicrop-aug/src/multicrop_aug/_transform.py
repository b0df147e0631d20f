"""The same for other people's data sets: a transform of one image, and the collate function for its lists."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from ._recipe import Recipe
from ._render import render


class MultiCrop:
    """A torchvision-style transform: one image in, the list of its V crops (3, S, S) out.

    Pass `index` (position in the data set) and `epoch` to get the crops that `Recipe.draw` and `render` give that
    sample anywhere. Without an index, images are numbered as they come to this worker process, so the crops depend on
    the workers, and a worker that is started anew for each epoch draws the same again unless `epoch` is passed.
    """

    def __init__(self, recipe: Recipe, seed: int = 0) -> None:
        self.recipe = recipe
        self.seed = seed
        self._n_seen = 0

    def __call__(self, image: Image.Image | Tensor | bytes, index: int | None = None, epoch: int = 0) -> list[Tensor]:
        """Crops of a PIL image (any mode), a uint8 tensor (3, H, W) or an encoded JPEG, PNG, ... file."""
        pixels = image if isinstance(image, Tensor) else _rgb_pixels(image)
        if pixels.ndim != 3:
            raise ValueError(f"image must be (3, H, W), got {tuple(pixels.shape)}: one image at a time, or use render")
        key = self._next_index() if index is None else index
        plan = self.recipe.draw(torch.tensor([key]), epoch, tuple(pixels.shape[-2:]), self.seed)
        return [crop[0] for crop in render([pixels], plan)]

    def _next_index(self) -> int:
        worker = get_worker_info()
        n_workers, rank = (worker.num_workers, worker.id) if worker else (1, 0)
        self._n_seen += 1
        return (self._n_seen - 1) * n_workers + rank


def collate(samples: Sequence[Any]) -> Any:
    """A batch of `MultiCrop` lists: V tensors (B, 3, S_v, S_v).

    samples: lists of crops, or tuples (crops, label, ...), which give (V tensors, labels, ...).
    """
    if not isinstance(samples[0], tuple):
        return [torch.stack(crops) for crops in zip(*samples, strict=True)]
    crops, *rest = zip(*samples, strict=True)
    return (collate(crops), *(default_collate(list(values)) for values in rest))


def _rgb_pixels(image: Image.Image | bytes) -> Tensor:
    """uint8 (3, H, W), a channels-last view as PIL keeps it."""
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL image, a uint8 tensor or encoded bytes, got {type(image).__name__}")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
