"""The CPU backend: crops are worked on in blocks that stay in cache."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._blur import blur_
from ._colour import grey_, jitter, solarise_
from ._geometry import resize_matrix, rotate, separable
from ._plan import CropGroup, CropPlan

_BLOCK = 1 << 19  # float32 numbers worked on at a time: 2 MiB; half of it was 1.3 times slower, twice it no faster
_MATRIX_MAX_SIDE = 48  # up to this side dense matrices beat cutting and interpolating image by image (2 x at 32)


def render_cpu(images: Tensor | Sequence[Tensor], plan: CropPlan) -> list[Tensor]:
    """One (B, 3, S, S) float32 tensor a crop; see `render`."""
    for name, tensors in (("images", images[:1]), ("plan", [plan.sizes])):
        if any(tensor.device.type != "cpu" for tensor in tensors):
            raise ValueError(f"the cpu backend needs images and plan on the CPU, the {name} came on another device")
    crops: list[Tensor] = []
    for group in plan.groups:
        n_images, size = len(plan.sizes), group.size
        out = torch.empty(group.n_crops * n_images, 3, size, size)
        flat = group.apply(lambda t: t.flatten(0, 1))  # crop-major: row = crop * B + image
        n_block = max(1, _BLOCK // (3 * size * size))
        for first in range(0, len(out), n_block):
            rows = slice(first, first + n_block)
            block = flat.apply(lambda t, rows=rows: t[rows])  # type: ignore[misc]
            image_rows = torch.arange(len(out))[rows] % n_images
            if isinstance(images, Tensor) and max(images.shape[-2:]) <= _MATRIX_MAX_SIDE:
                x = _cut_with_matrices(images, image_rows, block)
            else:
                x = _cut_one_by_one(images, image_rows, block)
            _finish(x, block, plan, out=out[rows])
        crops += out.view(group.n_crops, n_images, 3, size, size).unbind(0)
    return crops


def _cut_with_matrices(images: Tensor, image_rows: Tensor, block: CropGroup) -> Tensor:
    """(N, 3, S, S) float32 in [0, 1] from uint8 (B, 3, H, W): cut, resize and flip as two matrix products."""
    source = images.index_select(0, image_rows).float()
    height, width = source.shape[-2:]
    size = block.size
    no_flip = torch.zeros_like(block.flip)
    (top, left, h, w), (resized_h, resized_w), (y, x) = (t.unbind(-1) for t in (block.box, block.resized, block.offset))
    rows = resize_matrix(top, h, resized_h, y, no_flip, size_in=height, size_out=size).div_(255)
    columns = resize_matrix(left, w, resized_w, x, block.flip, size_in=width, size_out=size)
    return separable(source, rows, columns)


def _cut_one_by_one(images: Tensor | Sequence[Tensor], image_rows: Tensor, block: CropGroup) -> Tensor:
    """As above for images of any size; resized in uint8, as PIL does, so each value is a multiple of 1/255."""
    size = block.size
    out = torch.empty(len(image_rows), 3, size, size, dtype=torch.uint8)
    places = torch.cat((block.box, block.resized, block.offset), -1).tolist()
    for i, (image, (top, left, h, w, resized_h, resized_w, y, x)) in enumerate(
        zip(image_rows.tolist(), places, strict=True)
    ):
        patch = images[image][:, top : top + h, left : left + w]
        if (resized_h, resized_w) != (h, w):
            patch = F.interpolate(patch[None], (resized_h, resized_w), mode="bilinear", antialias=True)[0]
        out[i] = patch[:, y : y + size, x : x + size]
    flipped = block.flip.nonzero()[:, 0]
    out[flipped] = out[flipped].flip(-1)
    return out.float().div_(255)


def _finish(x: Tensor, block: CropGroup, plan: CropPlan, out: Tensor) -> None:
    """Everything after the flip, which was done with the cut: it commutes with all but rotation. Overwrites x."""
    for operation in plan.order:
        if operation == "rotation" and block.angle.any():
            x = rotate(x, block.angle * _turned_first(block, plan))
        elif operation == "jitter" and block.jitter.any():
            neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
            x = jitter(x, torch.where(block.jitter[:, None], block.factors, neutral), block.jitter_order)
        elif operation == "grey":
            grey_(x, block.grey)
        elif operation == "blur":
            blur_(x, block.sigma, block.blur)
        elif operation == "solarise":
            solarise_(x, block.solarise, plan.solarise_threshold)
    mean, std = (torch.tensor(t)[:, None, None] for t in (plan.mean, plan.std))
    torch.sub(x, mean, out=out).div_(std)


def _turned_first(block: CropGroup, plan: CropPlan) -> Tensor:
    """-1 for a crop that is flipped after its rotation: to flip first, it must turn the other way."""
    flip_is_later = "flip" in plan.order and plan.order.index("flip") > plan.order.index("rotation")
    return torch.where(block.flip, -1.0, 1.0) if flip_is_later else torch.ones(())
