"""Rendering: a backend obeys a plan."""

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from ._packed import PackedImages, check_image
from ._plan import CropPlan

Images = Tensor | PackedImages | Sequence[Tensor | bytes]
BACKENDS = ("auto", "cpu", "torch", "triton")


def render(
    images: Images,
    plan: CropPlan,
    backend: str = "auto",
    *,
    rows: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """The crops of a batch: V tensors (B, 3, S, S), normalised, in the order of the recipe's specs.

    images: uint8 RGB of the sizes the plan was drawn for: (B, 3, H, W) of any strides, a sequence of (3, H_i, W_i),
    `PackedImages`, or a sequence of encoded files as bytes (on the CPU). rows: (B,) int64 picks the B images of a
    larger set, which is not copied. backend: "cpu"; "torch", any device; "triton", NVIDIA GPUs; "auto": the fastest
    for where the images are, to which the plan is moved. dtype: float32, bfloat16 or float16, rounded once, at the end.

    On a GPU nothing waits for the device if the plan was drawn there (`draw` with indices there), so a plan or rows
    that live there are not looked at: a box that does not fit its image, or a row that there is not, gives a crop of
    NaN. Elsewhere both raise ValueError, as do images of another kind.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; there is {list(BACKENDS)}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point one, got {dtype}")
    batch = _checked(images)
    device = _device_of(batch, plan)
    backend = _fastest(device) if backend == "auto" else backend
    _check_sizes(batch, plan, rows)
    if backend == "cpu":
        from ._cpu import render_cpu

        return render_cpu(batch, plan, rows, dtype, memory_format)
    batch = PackedImages.pack(batch) if isinstance(batch, list) else batch
    rows = rows if rows is None else rows.to(device, non_blocking=True)
    plan = plan if plan.sizes.device == device else plan.to(device)
    if backend == "triton":
        from ._triton import render_triton as render_there
    else:
        from ._torch import render_torch as render_there
    return render_there(batch, plan, rows, dtype, memory_format)


def _checked(images: Images) -> Tensor | PackedImages | list[Tensor]:
    if isinstance(images, PackedImages):
        return images
    if not isinstance(images, Tensor):
        return [_pixels(image) for image in images]
    if images.ndim != 4:
        raise ValueError(f"images must be (B, 3, H, W) or a list of (3, H, W), got {tuple(images.shape)}")
    check_image(images[0] if len(images) else images.new_empty(3, 1, 1))
    return images


def _pixels(image: Tensor | bytes) -> Tensor:
    if isinstance(image, bytes):
        from ._decode import decode_rgb

        return decode_rgb(image)
    check_image(image)
    return image


def _device_of(images: Tensor | PackedImages | list[Tensor], plan: CropPlan) -> torch.device:
    if isinstance(images, list):
        return images[0].device if images else plan.sizes.device
    return images.device


def _fastest(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return "triton" if device.type == "cuda" and importlib.util.find_spec("triton") else "torch"


def _check_sizes(images: Tensor | PackedImages | list[Tensor], plan: CropPlan, rows: Tensor | None) -> None:
    """What can be known of the sizes without waiting for a device."""
    n_images = len(plan.sizes)
    if rows is not None:
        if rows.shape != (n_images,) or rows.dtype != torch.int64:
            raise ValueError(
                f"rows must be ({n_images},) int64, one an image of the plan, got {tuple(rows.shape)} {rows.dtype}"
            )
        if rows.device.type == "cpu" and n_images and not 0 <= int(rows.amin()) <= int(rows.amax()) < len(images):
            raise ValueError(f"rows must be in [0, {len(images)}), got {rows.amin().item()} to {rows.amax().item()}")
    elif len(images) != n_images:
        raise ValueError(
            f"the plan was drawn for {n_images} images, not of {len(images)}: draw it for sizes of these images"
        )
    if plan.sizes.device.type != "cpu" or (rows is not None and rows.device.type != "cpu"):
        return
    if isinstance(images, Tensor):
        sizes = torch.tensor(images.shape[-2:]).expand(n_images, 2)
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
