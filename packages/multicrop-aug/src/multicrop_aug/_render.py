"""Rendering: a backend obeys a plan."""

import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._check import check_places, check_rows, check_sizes
from ._move import moved
from ._numba import has_numba
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

    On a GPU nothing waits for the device. Draw the plan on the CPU: it is checked there, and crosses with rows that are
    on the CPU in one copy. A plan or rows that are on the GPU already are not looked at: a box that does not fit its
    image, or a row that there is not, gives a crop of NaN. On the CPU both raise ValueError, as do images of another
    kind.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; there is {list(BACKENDS)}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point one, got {dtype}")
    batch = _checked(images)
    device = _device_of(batch, plan)
    backend = _fastest(device) if backend == "auto" else backend
    check_rows(len(batch), plan, rows)
    check_sizes(batch, plan, rows)
    if backend == "cpu":
        return _cpu_backend()(batch, plan, rows, dtype, memory_format)
    check_places(plan)
    batch = PackedImages.pack(batch) if isinstance(batch, list) else batch
    plan, rows = _sent(plan, rows, device)
    if backend == "triton":
        from ._triton import render_triton as render_there
    else:
        from ._torch import render_torch as render_there
    return render_there(batch, plan, rows, dtype, memory_format)


def _cpu_backend() -> Callable[..., list[Tensor]]:
    if not has_numba():
        raise ImportError("the cpu backend needs numba, which cannot be imported here: install it, or backend='torch'")
    from ._cpu import render_cpu

    return render_cpu


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


def _sent(plan: CropPlan, rows: Tensor | None, device: torch.device) -> tuple[CropPlan, Tensor | None]:
    """Plan and rows on the device; those on the CPU share one copy."""
    tensors = plan.tensors()
    if rows is None:
        return plan.with_tensors(moved(tensors, device, non_blocking=True)), None
    *tensors, rows = moved([*tensors, rows], device, non_blocking=True)
    return plan.with_tensors(tensors), rows


def _fastest(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu" if has_numba() else "torch"
    return "triton" if device.type == "cuda" and importlib.util.find_spec("triton") else "torch"
