"""The `torch` backend: batched tensor operations on any device. Flags become masks, so nothing waits for the device."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ._geometry import resize_matrix, separable
from ._operations import CropGroup
from ._packed import PackedImages
from ._plan import CropPlan
from ._torch_operations import APPLY

_BLOCK = 1 << 24  # float32 numbers of source and crops processed at a time: 64 MiB


def render_torch(
    images: Tensor | PackedImages,
    plan: CropPlan,
    rows: Tensor | None,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """Return one (B, 3, S, S) tensor per crop; see `render`. images, plan and rows are on one device."""
    crops: list[Tensor] = []
    n_images, device = len(plan.sizes), plan.sizes.device
    height, width = _largest(images)
    for group in plan.groups:
        size = group.size
        out = torch.empty(
            group.n_crops * n_images, 3, size, size, dtype=dtype, device=device, memory_format=memory_format
        )
        flat = group.apply(lambda t: t.flatten(0, 1))  # crop-major: row = crop * B + image
        if "flip" not in plan.order:
            flat = replace(flat, flip=torch.zeros_like(flat.flip))
        n_block = max(1, _BLOCK // (3 * (height * width + 4 * size * size)))
        for first in range(0, len(out), n_block):
            block = flat.apply(lambda t, part=slice(first, first + n_block): t[part])  # type: ignore[misc]
            chosen = torch.arange(first, first + len(block.flip), device=device) % n_images
            chosen = chosen if rows is None else rows[chosen]
            wrong = (chosen < 0) | (chosen >= len(images))
            chosen = chosen.clamp(0, len(images) - 1)
            wrong |= _is_outside(block.box, images, chosen)
            source = _padded(images, chosen, height, width) if isinstance(images, PackedImages) else images[chosen]
            x = _finished(_cut(source.float(), block), block, plan)
            out[first : first + n_block] = x.masked_fill_(wrong[:, None, None, None], torch.nan)
        crops += out.unflatten(0, (group.n_crops, n_images)).unbind(0)
    return crops


def _largest(images: Tensor | PackedImages) -> Sequence[int]:
    if isinstance(images, PackedImages):
        return images.sizes.amax(0).tolist() if len(images) else (1, 1)
    return images.shape[-2:]


def _is_outside(box: Tensor, images: Tensor | PackedImages, chosen: Tensor) -> Tensor:
    """Return (N,) bool: whether a box lies outside its image."""
    top, left, h, w = box.unbind(-1)
    height, width = images.places[chosen, 1:].unbind(-1) if isinstance(images, PackedImages) else images.shape[-2:]
    return (torch.minimum(top, left) < 0) | (torch.minimum(h, w) < 1) | (top + h > height) | (left + w > width)


def _padded(images: PackedImages, chosen: Tensor, height: int, width: int) -> Tensor:
    """Return (N, 3, height, width) uint8 with the chosen images in the upper left, and any values elsewhere."""
    first, h, w = images.places[chosen].unbind(-1)  # (N,)
    y = torch.arange(height, device=chosen.device).minimum(h[:, None] - 1)
    x = torch.arange(width, device=chosen.device).minimum(w[:, None] - 1)
    pixel = first[:, None, None] + 3 * (y * w[:, None])[:, :, None] + 3 * x[:, None, :]  # (N, height, width)
    return images.pixels[pixel[:, None] + torch.arange(3, device=chosen.device)[:, None, None]]


def _cut(source: Tensor, block: CropGroup) -> Tensor:
    """Cut, resize and flip (N, 3, H, W) float32 in [0, 255] to (N, 3, S, S) in [0, 1], as two matrix products."""
    (top, left, h, w), (resized_h, resized_w), (y, x) = (t.unbind(-1) for t in (block.box, block.resized, block.offset))
    height, width = source.shape[-2:]
    no_flip = torch.zeros_like(block.flip)
    size, kind = block.size, block.interpolation
    rows = resize_matrix(top, h, resized_h, y, no_flip, size_in=height, size_out=size, interpolation=kind).div_(255)
    columns = resize_matrix(left, w, resized_w, x, block.flip, size_in=width, size_out=size, interpolation=kind)
    crops = separable(source, rows, columns)
    return crops.clamp_(0, 1) if kind == "bicubic" else crops


def _finished(x: Tensor, block: CropGroup, plan: CropPlan) -> Tensor:
    """Apply the operations and normalise. The flip was done with the cut; it commutes with all but rotation."""
    for operation in plan.order:
        if operation != "flip":
            x = APPLY[operation](x, block, plan)
    for channel, mean, std in zip(x.unbind(1), plan.mean, plan.std, strict=True):
        channel.sub_(mean).div_(std)
    return x
