"""Images of different sizes in one buffer, which goes to a GPU in one copy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ._arrays import to_tensor
from ._move import moved


@dataclass(frozen=True, eq=False)
class PackedImages:
    """B uint8 RGB images of any sizes, end to end as (H, W, 3) bytes. `pack` makes it, `render` takes it.

    Attributes:
        pixels: (bytes,) uint8.
        places: (B, 3) int64 on the device of pixels: first byte, height, width.
        sizes: (B, 2) int64, height and width. They stay on the CPU, where `Recipe.draw` and `render` need them.

    Example:
        ```python
        loader = DataLoader(images, batch_size=256, collate_fn=PackedImages.pack, pin_memory=True)
        packed = next(iter(loader)).to("cuda", non_blocking=True)  # no wait
        crops = render(packed, recipe.draw(indices, epoch, packed.sizes, seed=0))
        ```
    """

    pixels: Tensor
    places: Tensor
    sizes: Tensor

    @classmethod
    def pack(cls, images: Sequence[Tensor | np.ndarray]) -> "PackedImages":
        """Copy images into one buffer.

        Args:
            images: uint8 (3, H, W). A view of (H, W, 3) memory, as decoders return it, is copied fastest.

        Returns:
            The images, on the device of the first one (the CPU for NumPy arrays).

        Raises:
            ValueError: An image is not uint8 (3, H, W).
        """
        tensors = [to_tensor(image) for image in images]
        for image in tensors:
            check_image(image)
        sizes = torch.tensor([image.shape[-2:] for image in tensors], dtype=torch.int64).view(-1, 2)
        ends = (3 * sizes.prod(1)).cumsum(0).tolist()
        firsts = [0, *ends[:-1]] if ends else []
        device = tensors[0].device if tensors else None
        pixels = torch.empty(ends[-1] if ends else 0, dtype=torch.uint8, device=device)
        for image, first, end in zip(tensors, firsts, ends, strict=True):
            height, width = image.shape[-2:]
            pixels[first:end].view(height, width, 3).copy_(image.permute(1, 2, 0))
        places = torch.cat((torch.tensor(firsts, dtype=torch.int64)[:, None], sizes), 1)
        (places,) = moved([places], pixels.device, non_blocking=True)
        return cls(pixels, places, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, image: int) -> Tensor:
        """Return image number `image` as a (3, H, W) view."""
        if not 0 <= image < len(self):
            raise IndexError(f"image must be in [0, {len(self)}), got {image}")
        height, width = self.sizes[image].tolist()
        first = int(self.places[image, 0])
        return self.pixels[first : first + 3 * height * width].view(height, width, 3).permute(2, 0, 1)

    @property
    def device(self) -> torch.device:
        """Device of the pixels."""
        return self.pixels.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedImages":
        """Return the images on another device.

        Args:
            device: Target device.
            non_blocking: Do not wait for a copy from the CPU to a GPU. This needs pinned memory.
        """
        pixels, places = (t.to(device, non_blocking=non_blocking) for t in (self.pixels, self.places))
        return replace(self, pixels=pixels, places=places)

    def pin_memory(self) -> "PackedImages":
        """Return the images in page-locked memory, from which copies to a GPU need not wait."""
        return replace(self, pixels=self.pixels.pin_memory(), places=self.places.pin_memory())


def check_image(image: Tensor) -> None:
    """Raise ValueError unless the image is uint8 (3, H, W)."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"images must be uint8 RGB (3, H, W), got {tuple(image.shape)} {image.dtype}: convert them first, "
            "and (H, W, 3) by moving the channels to the front"
        )
