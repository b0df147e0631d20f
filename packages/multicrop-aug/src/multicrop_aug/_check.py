"""Checks of `render` before it starts. They never wait for a device."""

import numpy as np
import torch
from torch import Tensor

from ._packed import PackedImages
from ._plan import CropPlan


def check_rows(n_set: int, plan: CropPlan, rows: Tensor | None) -> None:
    """Raise ValueError unless there is one row per image of the plan, or, without rows, one image."""
    n_images = len(plan.sizes)
    if rows is None:
        if n_set != n_images:
            raise ValueError(
                f"the plan was drawn for {n_images} images, got {n_set}: draw it with the sizes of these images"
            )
        return
    if rows.shape != (n_images,) or rows.dtype != torch.int64:
        raise ValueError(
            f"rows must be ({n_images},) int64, one per image of the plan, got {tuple(rows.shape)} {rows.dtype}"
        )
    if rows.device.type == "cpu" and n_images and not 0 <= int(rows.amin()) <= int(rows.amax()) < n_set:
        raise ValueError(f"rows must be in [0, {n_set}), got {rows.amin().item()} to {rows.amax().item()}")


def check_sizes(images: Tensor | PackedImages | list[Tensor], plan: CropPlan, rows: Tensor | None) -> None:
    """Raise ValueError if a plan on the CPU was drawn for images of other sizes."""
    if plan.sizes.device.type != "cpu":
        return
    if isinstance(images, Tensor):
        sizes = torch.tensor(images.shape[-2:]).expand(len(plan.sizes), 2)
    elif rows is not None and rows.device.type != "cpu":
        return  # which images are chosen, and so their sizes, is not known on the CPU
    else:
        if isinstance(images, PackedImages):
            sizes = images.sizes
        else:
            sizes = torch.tensor([image.shape[-2:] for image in images], dtype=torch.int64).view(-1, 2)
        sizes = sizes if rows is None else sizes[rows]
    if not torch.equal(sizes, plan.sizes):
        raise ValueError(
            "the plan was drawn for images of other sizes than those given: pass sizes=(height, width) of these to draw"
        )


def check_places(plan: CropPlan) -> None:
    """Raise ValueError if a plan on the CPU was changed so that it reads beyond its images."""
    if plan.sizes.device.type != "cpu" or len(plan.sizes) == 0:
        return
    height, width = plan.sizes.numpy().T
    for group in plan.groups:
        # int64, because sums of int32 can wrap. A bitwise or is negative if one of its terms is, so one test is enough.
        top, left, h, w = group.box.numpy().reshape(-1, 4).T.astype(np.int64).reshape(4, -1, len(height))
        lowest = (top | left | (h - 1) | (w - 1) | (height - top - h) | (width - left - w)).min()
        window = group.resized.numpy().astype(np.int64) - group.size - group.offset.numpy()
        if min(lowest, window.min(), group.offset.numpy().min()) < 0 or group.jitter_order.numpy().max() > 3:
            raise ValueError(
                "the plan has a box or a window outside of its image, or a jitter order beyond 0..3: draw it again, or "
                "correct what was changed"
            )
