"""Rendering: a backend obeys a plan."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._cpu import render_cpu
from ._plan import CropPlan

_BACKENDS: dict[str, Callable[[Tensor | Sequence[Tensor], CropPlan], list[Tensor]]] = {"cpu": render_cpu}


def render(images: Tensor | Sequence[Tensor], plan: CropPlan, backend: str = "cpu") -> list[Tensor]:
    """The crops of a batch: V float32 tensors (B, 3, S, S), normalised, in the order of the recipe's specs.

    images: uint8, (B, 3, H, W) or a sequence of B tensors (3, H_i, W_i), of the sizes the plan was drawn for.
    Sides up to 48 pixels in one tensor are resized in float32 (torchvision's float path to 1e-5); other images are
    resized in uint8 (torchvision's uint8 path): there the two differ by at most one step of 1/255.
    Raises ValueError if the images are not such, or not of the plan's sizes.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; there is {sorted(_BACKENDS)}")
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(f"images must be (B, 3, H, W) or a list of (3, H, W), got {tuple(images.shape)}")
        _check_image(images[0] if len(images) else images.new_empty(3, 1, 1))
        sizes = torch.tensor(images.shape[-2:]).expand(len(images), 2)
    else:
        for image in images:
            _check_image(image)
        sizes = torch.tensor([image.shape[-2:] for image in images], dtype=torch.int64).view(-1, 2)
    if not torch.equal(sizes, plan.sizes.cpu()):
        raise ValueError(
            f"the plan was drawn for {len(plan.sizes)} images of other sizes than the {len(sizes)} images given: "
            "pass sizes=(height, width) of these images to draw"
        )
    return _BACKENDS[backend](images, plan)


def _check_image(image: Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"images must be uint8 RGB (3, H, W), got {tuple(image.shape)} {image.dtype}: convert them first"
        )
