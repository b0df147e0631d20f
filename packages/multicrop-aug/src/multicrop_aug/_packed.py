"""Images of many sizes in one buffer: what a GPU can be given in one copy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._move import moved


@dataclass(frozen=True, eq=False)
class PackedImages:
    """B uint8 RGB images of any sizes, end to end as (H, W, 3) bytes; `pack` makes it, `render` takes it.

    `DataLoader(..., collate_fn=PackedImages.pack, pin_memory=True)` and `.to(device, non_blocking=True)` bring a batch
    to the GPU without a wait. sizes stay on the CPU, where `Recipe.draw` and `render` want to know them.
    """

    pixels: Tensor  # (bytes,) uint8
    places: Tensor  # (B, 3) int64 on the device of pixels: first byte, height, width
    sizes: Tensor  # (B, 2) int64 on the CPU: height, width

    @classmethod
    def pack(cls, images: Sequence[Tensor]) -> "PackedImages":
        """Copies uint8 (3, H, W) tensors; a view of (H, W, 3) memory, as decoders give it, is one straight copy."""
        for image in images:
            check_image(image)
        sizes = torch.tensor([image.shape[-2:] for image in images], dtype=torch.int64).view(-1, 2)
        ends = (3 * sizes.prod(1)).cumsum(0).tolist()
        firsts = [0, *ends[:-1]] if ends else []
        device = images[0].device if len(images) else None
        pixels = torch.empty(ends[-1] if ends else 0, dtype=torch.uint8, device=device)
        for image, first, end in zip(images, firsts, ends, strict=True):
            height, width = image.shape[-2:]
            pixels[first:end].view(height, width, 3).copy_(image.permute(1, 2, 0))
        places = torch.cat((torch.tensor(firsts, dtype=torch.int64)[:, None], sizes), 1)
        (places,) = moved([places], pixels.device, non_blocking=True)
        return cls(pixels, places, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, image: int) -> Tensor:
        """Image number `image` as a (3, H, W) view."""
        if not 0 <= image < len(self):
            raise IndexError(f"image must be in [0, {len(self)}), got {image}")
        height, width = self.sizes[image].tolist()
        first = int(self.places[image, 0])
        return self.pixels[first : first + 3 * height * width].view(height, width, 3).permute(2, 0, 1)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedImages":
        """The images on another device. From the CPU to a GPU only copies from pinned memory can be non_blocking."""
        pixels, places = (t.to(device, non_blocking=non_blocking) for t in (self.pixels, self.places))
        return replace(self, pixels=pixels, places=places)

    def pin_memory(self) -> "PackedImages":
        """The images in page-locked memory, from where copies to a GPU do not wait."""
        return replace(self, pixels=self.pixels.pin_memory(), places=self.places.pin_memory())


def check_image(image: Tensor) -> None:
    """Raises ValueError for anything but uint8 (3, H, W)."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"images must be uint8 RGB (3, H, W), got {tuple(image.shape)} {image.dtype}: convert them first"
        )
