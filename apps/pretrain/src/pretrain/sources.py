"""The images of a run, kept decoded in memory or read from their files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from indexed_images import CorruptImage, IndexedImages
from steady_runs import BadInput
from torch import Tensor

GIB = 2**30


@dataclass(frozen=True)
class Source:
    """Images and, if they are resident, their pixels.

    Attributes:
        images: The data set.
        pixels: (N, 3, H, W) uint8, all images, on the training device, or in main memory if they do not fit on the
            GPU. None = images are read and decoded for each batch.
    """

    images: IndexedImages
    pixels: Tensor | None = None

    @classmethod
    def of(
        cls,
        images: IndexedImages,
        resident: str,
        device: torch.device,
        progress: Callable[[str, float], None] = lambda what, fraction: None,
    ) -> Source:
        """Decode the images into memory if `resident` asks for it.

        Args:
            images: The data set.
            resident: The setting: "off"; "on", for images of one size; a number of pixels, to which every image is
                resized and centre-cropped; "auto", which keeps sets that are arrays if they fit in half of a GPU's free
                memory.
            device: The training device.
            progress: Told the fraction that is decoded.

        Raises:
            BadInput: If the images have several sizes, are corrupt, or need more memory than there is.
        """
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
        """A line on resident images for the header of a run; None if images are used as they are in their files."""
        if self.pixels is None or not self.images.has_files:
            return None
        height, width = self.pixels.shape[2:]
        where = "the GPU" if self.pixels.is_cuda else "main memory"
        size = f"{self.pixels.nbytes / GIB:.2f} GiB"
        return f"{len(self):,} images kept decoded at {width} x {height} pixels in {where}, {size}"

    def __len__(self) -> int:
        return len(self.images)


def _is_an_array_that_fits(images: IndexedImages, device: torch.device) -> bool:
    if images.has_files:
        return False
    return device.type == "cpu" or len(images) * images[0].image.numel() < _free(device) // 2


def _place_for(n_bytes: int, device: torch.device, resident: str) -> torch.device:
    """The GPU if the images fit in half its free memory, else the CPU. Raises BadInput if main memory is too small."""
    fits = device.type != "cpu" and n_bytes < _free(device) // 2
    # every rank of this machine decodes all images into main memory, also if they go on to a GPU
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
    except (OSError, StopIteration):  # not Linux: unknown, so nothing is refused
        return 2**62
