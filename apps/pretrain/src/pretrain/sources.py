"""Images of a run, and how much of them is kept decoded in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from indexed_images import CorruptImage, IndexedImages
from torch import Tensor

from pretrain.errors import BadInput

GIB = 2**30


@dataclass(frozen=True)
class Source:
    """Images, and what is kept of them.

    pixels: (N, 3, H, W) uint8: all images, on the device of the crops or, for a GPU that they do not fit on, in main
    memory; None = images are read and decoded for each batch."""

    images: IndexedImages
    pixels: Tensor | None = None

    @classmethod
    def of(
        cls,
        images: IndexedImages,
        resident: str,
        device: torch.device,
        progress: Callable[[str, float], None] = lambda what, share: None,
    ) -> Source:
        """resident: as the setting. "off"; "on", for images of one size; a number of pixels, the side that every image
        is resized and centre-cropped to; "auto": sets without encoded files, which are arrays anyway, if they fit in
        half of a GPU's free memory. Raises BadInput where images cannot be kept as asked."""
        if resident == "off" or (resident == "auto" and not _is_an_array_that_fits(images, device)):
            return cls(images)
        side = int(resident) if resident.isdecimal() else None

        def done(n: int, of: int) -> None:
            progress("images into memory", n / of)

        try:
            n_bytes = len(images) * (3 * side**2 if side else images[0].image.numel())
            place = _place_for(n_bytes, device, resident)
            pixels = images.resident(place, side, done)
        except BadInput:
            raise
        except CorruptImage as error:
            raise BadInput(f"--resident {resident}: {error}") from None
        except ValueError as error:  # images of several sizes
            reason = str(error).removesuffix(": pass size=PIXELS")
            instead = "take --resident auto, or a size such as --resident 160"
            raise BadInput(f"--resident {resident}: {reason}; {instead}") from None
        return cls(images, pixels)

    @property
    def remark(self) -> str | None:
        """What was done to the images, for the header of a run; None where they are as in their files."""
        if self.pixels is None or self.images.bytes(0) is None:
            return None
        height, width = self.pixels.shape[2:]
        where = "the GPU" if self.pixels.is_cuda else "main memory"
        size = f"{self.pixels.nbytes / GIB:.2f} GiB"
        return f"{len(self):,} images kept decoded at {width} x {height} pixels in {where}, {size}"

    def __len__(self) -> int:
        return len(self.images)


def _is_an_array_that_fits(images: IndexedImages, device: torch.device) -> bool:
    if images.bytes(0) is not None:
        return False
    return device.type == "cpu" or len(images) * images[0].image.numel() < _free(device) // 2


def _place_for(n_bytes: int, device: torch.device, resident: str) -> torch.device:
    """The device if it has twice the room, else the host. Raises BadInput if the host has no room to decode into."""
    fits = device.type != "cpu" and n_bytes < _free(device) // 2
    # every rank of the machine decodes all images into main memory, also where they go on to a GPU
    needed, room = n_bytes * int(os.environ.get("LOCAL_WORLD_SIZE", 1)), _free(torch.device("cpu"))
    if needed > 0.8 * room:
        raise BadInput(
            f"--resident {resident}: {needed / GIB:.1f} GiB of memory are needed, and {room / GIB:.1f} GiB are free; "
            f"take a smaller size or --resident off"
        )
    return device if fits else torch.device("cpu")


def _free(device: torch.device) -> int:
    """Free bytes of a GPU or, for the CPU, of main memory."""
    if device.type != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # another system than Linux: nobody knows, so nothing is refused
        return 2**62
