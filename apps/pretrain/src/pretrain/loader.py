"""From images to batches of crops: decoding in worker processes, augmentation there or on the GPU.

A batch follows from the epoch and the indices of its images alone: no loader holds labels, a generator or any state, so
a batch is the same whoever makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from indexed_images import CorruptImage, IndexedImages
from multicrop_aug import PackedImages, Recipe, render
from torch import Tensor

from pretrain.clock import Clock
from pretrain.errors import BadInput
from pretrain.sources import Source
from pretrain.workers import Pool, default_workers

Batch = tuple[list[Tensor], Tensor]  # V crops of (B, 3, S, S) float32 or bfloat16; indices (B,) on the device


@dataclass(frozen=True)
class Packing:
    """Of (epoch, indices), the images of a batch, decoded and packed; a job of the pool."""

    images: IndexedImages

    def __call__(self, epoch: int, indices: Tensor) -> PackedImages:
        return PackedImages.pack(read(self.images, indices))


@dataclass(frozen=True)
class Cropping:
    """Of (epoch, indices), the crops of a batch, made on the CPU; a job of the pool."""

    source: Source
    recipe: Recipe
    seed: int

    def __call__(self, epoch: int, indices: Tensor) -> list[Tensor]:
        images = read(self.source.images, indices) if self.source.pixels is None else None
        cpu = torch.device("cpu")
        return cropped(self.source, images, self.recipe, epoch, indices, self.seed, cpu, torch.float32)


def read(images: IndexedImages, indices: Tensor) -> list[Tensor]:
    """Pixels uint8 (3, H, W) of each image. Raises BadInput for a corrupt file, where that is the policy."""
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
    """V crops (B, 3, S, S) of a batch, channels last, on `device`: of these images, or of the source's pixels."""
    rows = None
    if images is None:
        assert source.pixels is not None
        sizes, rows = torch.tensor(source.pixels.shape[2:]), indices
        pixels = source.pixels
        if pixels.device != device:  # they stay on the host, as the GPU has no room for them
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

    On a CPU the pool makes the crops, or this process where the pool has no workers. A GPU makes them itself: of the
    resident set, or of images that the pool has decoded and packed. Each batch is made on a stream of its own while the
    batch before it trains, and nothing waits for the GPU.

    pool: shared with other loaders; if None, one of `workers` processes for this loader alone."""

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
        # on a GPU, unless a test wants to see the same on a CPU
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
        """A batch of crops for each of the (B,) int64 indices on the CPU.

        clock: told how long was waited for data, and how long crops took where they are made in this process."""
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
        """The same batches, each begun on `stream` before the one ahead of it is handed out."""

        def begun() -> tuple[Batch, torch.cuda.Event] | None:
            with torch.cuda.stream(stream):
                batch = next(made, None)
                return None if batch is None else (batch, stream.record_event())

        stream.wait_stream(torch.cuda.current_stream(self.device))  # the resident set may have been copied just now
        following = begun()
        while following is not None:
            (crops, rows), is_made = following
            following = begun()
            now = torch.cuda.current_stream(self.device)
            now.wait_event(is_made)  # the GPU waits, not the host
            for tensor in (*crops, rows):
                tensor.record_stream(now)  # its memory may be reused once this stream is done with it, too
            yield crops, rows
