"""`render`: checks images and plan, and chooses the backend."""

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ._arrays import to_tensor
from ._check import check_places, check_rows, check_sizes
from ._move import moved
from ._numba import has_numba
from ._packed import PackedImages, check_image
from ._plan import CropPlan

Images = Tensor | np.ndarray | PackedImages | Sequence[Tensor | np.ndarray | bytes]
BACKENDS = ("auto", "cpu", "torch", "triton")


def render(
    images: Images,
    plan: CropPlan,
    backend: str = "auto",
    *,
    rows: Tensor | np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """Render the crops of a batch.

    On a GPU nothing waits for the device. Draw the plan on the CPU: it is checked there, and goes over in one copy,
    together with rows that are on the CPU. A plan or rows that are already on the GPU are not checked: a box that does
    not fit its image, or a row that does not exist, gives a crop of NaN.

    Args:
        images: uint8 RGB of the sizes that the plan was drawn for: (B, 3, H, W) of any strides, a sequence of
            (3, H_i, W_i), `PackedImages`, or a sequence of encoded files as bytes (decoded on the CPU).
        plan: From `Recipe.draw`. It is moved to the device of the images.
        backend: "cpu"; "torch", any device; "triton", NVIDIA GPUs; "auto", the fastest one for the device of the
            images.
        rows: (B,) int64, the B images of a larger set, which is not copied. None: all images.
        dtype: float32, bfloat16 or float16; crops are rounded once, at the end.
        memory_format: Memory format of the crops.

    Returns:
        V tensors (B, 3, S, S), normalised, in the order of the recipe's specs, on the device of the images (the CPU for
        NumPy arrays).

    Raises:
        ValueError: Images, rows and plan do not fit together, images are not uint8 RGB, or an argument is unknown.
        ImportError: backend="cpu" where numba cannot be imported.

    Example:
        ```python
        images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
        plan = odc(size=32).draw(torch.arange(64), epoch=0, sizes=(32, 32), seed=0)
        (crops,) = render(images, plan)  # (64, 3, 32, 32) float32
        ```
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: use one of {list(BACKENDS)}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating-point, got {dtype}")
    rows = None if rows is None else to_tensor(rows)
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
        raise ImportError("the cpu backend needs numba, which cannot be imported: install it, or use backend='torch'")
    from ._cpu import render_cpu

    return render_cpu


def _checked(images: Images) -> Tensor | PackedImages | list[Tensor]:
    if isinstance(images, PackedImages):
        return images
    if isinstance(images, np.ndarray):
        images = to_tensor(images)
    if not isinstance(images, Tensor):
        return [_pixels(image) for image in images]
    if images.ndim != 4:
        raise ValueError(f"images must be (B, 3, H, W) or a list of (3, H, W), got {tuple(images.shape)}")
    check_image(images[0] if len(images) else images.new_empty(3, 1, 1))
    return images


def _pixels(image: Tensor | np.ndarray | bytes) -> Tensor:
    if isinstance(image, bytes):
        from ._decode import decode_rgb

        return decode_rgb(image)
    image = to_tensor(image)
    check_image(image)
    return image


def _device_of(images: Tensor | PackedImages | list[Tensor], plan: CropPlan) -> torch.device:
    if isinstance(images, list):
        return images[0].device if images else plan.sizes.device
    return images.device


def _sent(plan: CropPlan, rows: Tensor | None, device: torch.device) -> tuple[CropPlan, Tensor | None]:
    """Return plan and rows on the device. What comes from the CPU goes over in one copy."""
    tensors = plan.tensors()
    if rows is None:
        return plan.with_tensors(moved(tensors, device, non_blocking=True)), None
    *tensors, rows = moved([*tensors, rows], device, non_blocking=True)
    return plan.with_tensors(tensors), rows


def _fastest(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu" if has_numba() else "torch"
    return "triton" if device.type == "cuda" and importlib.util.find_spec("triton") else "torch"
