"""The `cpu` backend: renders each crop alone, from its uint8 pixels to its last operation, while it is in cache.

It follows torchvision's float path: pixels are divided by 255 before the resize, and never rounded to uint8 afterwards.
PIL, and torchvision on uint8, round to steps of 1/255 after the resize and after each operation.

It uses `torch.get_num_threads()` threads, each with its own crops; the kernels release the interpreter's lock. Threads
are started for each call, so a process may fork between two calls.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._cpu_kernel import render_crops
from ._cpu_memory import Memory, memory_of
from ._operations import NUMBER_OF, PLACE, CropGroup
from ._packed import PackedImages
from ._plan import CropPlan

_CROPS_PER_CALL = 64  # a kernel call costs about 10 us, as much as rendering a crop of 32 pixels


def render_cpu(
    images: Tensor | PackedImages | Sequence[Tensor],
    plan: CropPlan,
    rows: Tensor | None,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """Return one (B, 3, S, S) tensor per crop; see `render`."""
    device_of_images = plan.sizes.device if len(images) == 0 else images[0].device
    for name, device in (("images", device_of_images), ("plan", plan.sizes.device)):
        if device.type != "cpu":
            raise ValueError(f"the cpu backend needs images and plan on the CPU, the {name} came on {device}")
    memory, n_images = memory_of(images, rows), len(plan.sizes)
    crops: list[Tensor] = []
    calls: list[tuple[Any, ...]] = []
    for group in plan.groups:
        out = torch.empty(group.n_crops * n_images, 3, group.size, group.size)
        calls += _calls(memory, group, plan, out.numpy())
        crops += out.view(group.n_crops, n_images, 3, group.size, group.size).unbind(0)
    _run(calls, n_threads=min(torch.get_num_threads(), len(calls)))
    return [crop.to(dtype=dtype, memory_format=memory_format) for crop in crops]


def _calls(memory: Memory, group: CropGroup, plan: CropPlan, out: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of the kernel calls that render a group; each call renders crops of one piece of memory."""
    flat = group.apply(lambda t: t.flatten(0, 1).contiguous())  # crop-major: row = crop * B + image
    place = torch.cat((flat.box, flat.resized, flat.offset), -1)
    flip = flat.flip if "flip" in plan.order else torch.zeros_like(flat.flip)
    tensors = replace(flat, flip=flip, angle=_angle(flat, plan)).tensors()
    arguments = (
        memory.layouts,
        place.numpy(),
        tuple(t.numpy() for name, t in tensors.items() if name not in PLACE),
        np.array([NUMBER_OF[name] for name in plan.order], np.int64),
        np.float32(plan.solarise_threshold),
        np.array(plan.mean, np.float32),
        np.array(plan.std, np.float32),
        group.interpolation == "bicubic",
        out,
    )
    rows, n_pieces, n_threads = np.arange(len(out)), len(memory.pieces), torch.get_num_threads()
    for i, pixels in enumerate(memory.pieces):
        there = rows[i::n_pieces].copy()
        share = (
            len(there) if n_threads == 1 else len(there) // (4 * n_threads)
        )  # four calls per thread, because crops differ in cost
        n = min(_CROPS_PER_CALL, max(1, share))
        for first in range(0, len(there), n):
            yield there[first : first + n], pixels, *arguments


def _angle(group: CropGroup, plan: CropPlan) -> Tensor:
    """Return the degrees by which to rotate the crop after its flip.

    The flip is always done first. If it should come after the rotation, the crop turns the other way instead.
    """
    order = plan.order
    flip_is_later = {"flip", "rotation"} <= set(order) and order.index("flip") > order.index("rotation")
    return torch.where(group.flip, -group.angle, group.angle) if flip_is_later else group.angle


def _run(calls: list[tuple[Any, ...]], n_threads: int) -> None:
    """Run all calls, each on the next free thread."""
    if n_threads <= 1:
        for call in calls:
            render_crops(*call)
        return
    numbers = itertools.count()  # next() on it is atomic
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while (number := next(numbers)) < len(calls):
                render_crops(*calls[number])
        except BaseException as failure:
            failures.append(failure)

    threads = [Thread(target=work) for _ in range(n_threads - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
