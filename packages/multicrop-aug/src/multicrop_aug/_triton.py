"""The `triton` backend: one launch per crop size, two if a blur may have been drawn. It never waits for the device."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import triton
from torch import Tensor

from ._geometry import turns
from ._operations import CropGroup
from ._packed import PackedImages
from ._plan import CropPlan
from ._triton_kernel import NO_OPERATION, order_of, render_crops


def render_triton(
    images: Tensor | PackedImages,
    plan: CropPlan,
    rows: Tensor | None,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """Return one (B, 3, S, S) tensor per crop; see `render`. images, plan and rows are on one GPU.

    If the recipe can blur, it allocates a float32 copy of the crops of one size; only blurred crops are written there.
    """
    if plan.sizes.device.type != "cuda" and isinstance(render_crops, triton.JITFunction):
        raise ValueError(f"the triton backend needs a GPU, the images are on {plan.sizes.device}: use backend='torch'")
    with torch.cuda.device_of(plan.sizes):  # Triton launches on the current device, wherever the tensors are
        groups = [_render_group(images, plan, group, rows, dtype, memory_format) for group in plan.groups]
    return [crop for group in groups for crop in group]


def _render_group(
    images: Tensor | PackedImages,
    plan: CropPlan,
    group: CropGroup,
    rows: Tensor | None,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> Sequence[Tensor]:
    n_images, size, n_crops = len(plan.sizes), group.size, group.n_crops
    n = n_crops * n_images
    out = torch.empty(n, 3, size, size, dtype=dtype, device=plan.sizes.device, memory_format=memory_format)
    views = out.unflatten(0, (n_crops, n_images)).unbind(0)
    if n == 0:
        return views
    flat = group.apply(lambda t: t.flatten(0, 1).contiguous())  # crop-major: row = crop * B + image
    if "flip" not in plan.order:
        flat = replace(flat, flip=torch.zeros_like(flat.flip))
    order = [operation for operation in plan.order if operation != "flip"]
    launches = [order]
    n_before, scratch = NO_OPERATION.value, out
    if "blur" in order:
        n_before = order.index("blur")
        launches = [order[:n_before] + order[n_before + 1 :], order[n_before + 1 :]]
        scratch = torch.empty(n, 3, size, size, device=out.device)
    turn = turns(flat.angle, flat.flip, plan.order) if "rotation" in order else flat.sigma

    if isinstance(images, PackedImages):
        pixels, places, n_set = images.pixels, images.places, len(images)
        layout, stride_c = (
            (0, 0, 0, 0, 3),
            1,
        )  # height, width and strides of n, y, x; `places` has those that differ by image
    else:
        pixels, places, n_set = images, plan.sizes, len(images)
        stride_n, stride_c, stride_y, stride_x = images.stride()
        layout = (*images.shape[-2:], stride_n, stride_y, stride_x)
    tensors = replace(flat, angle=turn).tensors().values()  # in the order of the kernel's parameters
    drawn = [t.view(torch.uint8) if t.dtype == torch.bool else t for t in tensors]
    for operations, blurred in zip(launches, (False, True), strict=False):
        render_crops[(n,)](
            pixels, places, places if rows is None else rows, n_images, n_set, *layout,
            *drawn, plan.solarise_threshold, out, *out.stride()[1:], scratch, *plan.mean, *plan.std,
            STRIDE_C=stride_c, SIZE=size, ORDER=order_of(operations),
            N_BEFORE=NO_OPERATION.value if blurred else n_before, ROTATION_AT=_place("rotation", operations),
            JITTER_AT=_place("jitter", operations), BLURRED=blurred, CUBIC=group.interpolation == "bicubic",
            PACKED=isinstance(images, PackedImages), INDEXED=rows is not None,
            **tile_of(size, blurred=blurred),
        )  # fmt: skip
    return views


def _place(operation: str, operations: list[str]) -> int:
    return operations.index(operation) if operation in operations else NO_OPERATION.value


def tile_of(size: int, *, blurred: bool) -> dict[str, int]:
    """Return the shape and the warps of a tile.

    Tiles are small and square, so that they read pixels that are close together, with two pixels per thread, which
    keeps registers at 64. For a blur they are whole rows, so that no two warps blur the same source row, and 16 of
    them, so that few rows are blurred twice.
    """
    side = triton.next_power_of_2(size)
    if blurred:
        rows, columns = min(side, 16), min(side, 256)
        return {"ROWS": rows, "COLUMNS": columns, "num_warps": max(1, columns // 32)}
    side = min(side, 32)
    return {"ROWS": side, "COLUMNS": side, "num_warps": max(1, side * side // 64)}
