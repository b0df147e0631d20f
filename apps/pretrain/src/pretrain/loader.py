"""From images to batches of crops: decoding in worker processes, augmentation there or on the GPU.

A batch depends only on the epoch and the indices of its images. Loaders hold no labels, generators or other state, so a
batch is the same whichever process makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from indexed_images import CorruptImage, IndexedImages
from multicrop_aug import PackedImages, Recipe, render
from steady_runs import BadInput
from torch import Tensor

from pretrain.clock import Clock
from pretrain.sources import Source
from pretrain.workers import Pool, default_workers

Batch = tuple[list[Tensor], Tensor]  # V crops of (B, 3, S, S) float32 or bfloat16; indices (B,) on the device


@dataclass(frozen=True)
class Packing:
    """A job of the pool: decode and pack the images of a batch."""

    images: IndexedImages

    def __call__(self, epoch: int, indices: Tensor) -> PackedImages:
        return PackedImages.pack(read(self.images, indices))


@dataclass(frozen=True)
class Cropping:
    """A job of the pool: make the crops of a batch on the CPU."""

    source: Source
    recipe: Recipe
    seed: int

    def __call__(self, epoch: int, indices: Tensor) -> list[Tensor]:
        images = read(self.source.images, indices) if self.source.pixels is None else None
        cpu = torch.device("cpu")
        return cropped(self.source, images, self.recipe, epoch, indices, self.seed, cpu, torch.float32)


def read(images: IndexedImages, indices: Tensor) -> list[Tensor]:
    """Decode images to uint8 (3, H, W). Raises BadInput for a corrupt file, unless corrupt files are replaced."""
    try:
        return [images[i].image for i in indices.tolist()]
    except CorruptImage as error:
        raise BadInput(str(error)) from None


def cropped(
    source: Source,
    images: list[Tensor] | PackedImages | None,
    recipe: Recipe,
    epoch: int,
    indices: Tensor,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Tensor]:
    """V crops (B, 3, S, S), channels last, on `device`: of `images`, or of the source's pixels if None."""
    rows = None
    if images is None:
        assert source.pixels is not None
        sizes, rows = torch.tensor(source.pixels.shape[2:]), indices
        pixels = source.pixels
        if pixels.device != device:  # in main memory, as they do not fit on the GPU
            chosen = torch.empty(len(indices), *pixels.shape[1:], dtype=pixels.dtype, pin_memory=device.type == "cuda")
            pixels = torch.index_select(pixels, 0, indices, out=chosen).to(device, non_blocking=True)
            rows = None
        given: Tensor | list[Tensor] | PackedImages = pixels
    else:
        given = images
        sizes = images.sizes if isinstance(images, PackedImages) else _sizes(images)
    plan = recipe.draw(indices, epoch=epoch, sizes=sizes, seed=seed)
    return render(given, plan, rows=rows, dtype=dtype, memory_format=torch.channels_last)


def _sizes(images: list[Tensor]) -> Tensor:
    return torch.tensor([image.shape[1:] for image in images]).view(-1, 2)


class Loader:
    """Batches of crops on the device, in order.

    For training on a CPU, the pool makes the crops, or this process if the pool has no workers. On a GPU, the GPU makes
    them, from resident images or from images that the pool has decoded and packed. It does so on a CUDA stream of its
    own, while the previous batch trains. The host never waits for the GPU.

    Args:
        source: The images.
        recipe: How they are cropped and augmented.
        seed: Of the augmentation.
        device: Where the batches go.
        pool: Shared with other loaders; if None, one of `workers` processes for this loader alone.
        workers: Processes of that pool; by the number of cores if None.
        dtype: Of the crops, float32 or bfloat16.
        on_device: Make crops on the device; True for a GPU if None.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        pool: Pool | None = None,
        workers: int | None = None,
        dtype: torch.dtype = torch.float32,
        on_device: bool | None = None,
    ) -> None:
        self.source, self.recipe, self.seed, self.device, self.dtype = source, recipe, seed, device, dtype
        self.on_device = device.type == "cuda" if on_device is None else on_device
        resident = source.pixels is not None
        if pool is None:
            n_workers = default_workers(resident, device.type == "cuda") if workers is None else workers
            pool = Pool(n_workers, pin_memory=device.type == "cuda")
        self._pool = pool
        self._job = None
        if not self.on_device:
            self._job = pool.add(Cropping(source, recipe, seed))
        elif not resident:
            self._job = pool.add(Packing(source.images))
        if device.type == "cuda" and pool.stream is None:
            pool.stream = torch.cuda.Stream(device)

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, epoch: int, indices: list[Tensor], clock: Clock | None = None) -> Iterator[Batch]:
        """Yield a batch of crops for each (B,) int64 tensor of indices on the CPU.

        `clock` is told how long the loop waited for data, and how long crops took that this process made."""
        clock = clock or Clock(torch.device("cpu"))
        loaded: Iterable[Any] = [None] * len(indices)
        if self._job is not None:
            made_here = not self.on_device and self._pool.n_workers == 0 and self.source.pixels is not None
            results = self._pool.results(self._job, epoch, indices)
            loaded = clock.waiting("augmentation" if made_here else "data", results)
        if not self.on_device:
            yield from zip(loaded, indices, strict=True)
            return
        made = (self._on_device(images, epoch, rows, clock) for images, rows in zip(loaded, indices, strict=True))
        if self._pool.stream is None:
            yield from made
        else:
            yield from self._ahead(made, self._pool.stream)

    def _on_device(self, images: PackedImages | None, epoch: int, indices: Tensor, clock: Clock) -> Batch:
        rows = indices.pin_memory() if self.device.type == "cuda" else indices
        with clock.section("augmentation"):
            if images is not None:
                images = images.to(self.device, non_blocking=True)
            crops = cropped(self.source, images, self.recipe, epoch, indices, self.seed, self.device, self.dtype)
            return crops, rows.to(self.device, non_blocking=True)

    def _ahead(self, made: Iterator[Batch], stream: torch.cuda.Stream) -> Iterator[Batch]:
        """Yield the same batches, each started on `stream` before the previous one is yielded."""

        def begun() -> tuple[Batch, torch.cuda.Event] | None:
            with torch.cuda.stream(stream):
                batch = next(made, None)
                return None if batch is None else (batch, stream.record_event())

        stream.wait_stream(
            torch.cuda.current_stream(self.device)
        )  # resident images may still be on their way to the GPU
        following = begun()
        while following is not None:
            (crops, rows), is_made = following
            following = begun()
            now = torch.cuda.current_stream(self.device)
            now.wait_event(is_made)  # the GPU waits, not the host
            for tensor in (*crops, rows):
                tensor.record_stream(now)  # keeps the allocator from reusing its memory too early
            yield crops, rows
