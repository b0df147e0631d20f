"""Where crops lie: random resized crops for training, the centre crop for evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._keys import uniform

_TRIES = 10  # torchvision's RandomResizedCrop.get_params
_AREA, _RATIO, _TOP, _LEFT = (torch.arange(first, first + _TRIES) for first in (0, 10, 20, 30))


@dataclass(frozen=True)
class CropSpec:
    """Random resized crops of one size (Szegedy et al. 2015, arXiv:1409.4842; torchvision's RandomResizedCrop).

    size: side of the square crop, pixels. n_crops: how many per image. scale: share of the image's area, in (0, inf).
    ratio: width / height of the box, drawn uniformly in its logarithm.
    """

    size: int
    n_crops: int = 1
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.size < 1 or self.n_crops < 1:
            raise ValueError(f"size and n_crops must be at least 1, got {self.size} and {self.n_crops}")
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {(low, high)}")

    def place(self, keys: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box (n, B, 4), resized (n, B, 2) and offset (n, B, 2), int32, for streams `keys` (n, B) and `sizes` (B, 2).

        Ten tries as in torchvision's get_params, the first that fits is taken, else the largest central box of an
        allowed ratio. The arithmetic is float64; `exp` alone may differ between devices, in its last bit.
        """
        area_field, ratio_field = (f.to(keys.device)[:, None, None] for f in (_AREA, _RATIO))
        height, width = sizes.double().unbind(-1)  # (B,)
        low, high = torch.tensor(self.ratio, dtype=torch.float64).log().tolist()
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform(keys, area_field))
        aspect = (low + (high - low) * uniform(keys, ratio_field)).exp()
        w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (tries, n, B), half to even
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)

        first = fits.byte().argmax(0, keepdim=True)  # (1, n, B)
        h, w = h.gather(0, first)[0], w.gather(0, first)[0]
        top = ((height - h + 1) * uniform(keys, _TOP.to(keys.device)[first[0]])).floor()
        left = ((width - w + 1) * uniform(keys, _LEFT.to(keys.device)[first[0]])).floor()

        whole_h = torch.where(width / height < self.ratio[0], (width / self.ratio[0]).round().clamp(min=1), height)
        whole_w = torch.where(width / height > self.ratio[1], (height * self.ratio[1]).round().clamp(min=1), width)
        central = torch.stack(
            ((height - whole_h).div(2).floor(), (width - whole_w).div(2).floor(), whole_h, whole_w), -1
        )
        box = torch.where(fits.any(0)[..., None], torch.stack((top, left, h, w), -1), central).int()
        resized = torch.full_like(box[..., :2], self.size)
        return box, resized, torch.zeros_like(resized)


@dataclass(frozen=True)
class CentreSpec:
    """The evaluation crop: short side resized to `resize`, then the central `size` x `size` pixels.

    Rounding is that of torchvision's Resize and CenterCrop. resize must be at least size.
    """

    size: int
    resize: int
    n_crops: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(f"resize must be at least size (>= 1), got size {self.size} and resize {self.resize}")
        if self.n_crops != 1:
            raise ValueError(f"an image has one centre crop, got n_crops={self.n_crops}: use CropSpec for random ones")

    def place(self, keys: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As CropSpec.place; the same for every key."""
        sizes = sizes.to(torch.int64)
        resized = self.resize * sizes // sizes.amin(-1, keepdim=True)
        offset = ((resized - self.size) / 2).round()  # half to even, as Python's round
        box = torch.cat((torch.zeros_like(sizes), sizes), -1)
        box, resized, offset = (t.int().expand(*keys.shape, -1).contiguous() for t in (box, resized, offset))
        return box, resized, offset
