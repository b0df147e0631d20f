"""Where crops lie: random resized crops for training, the centre crop for evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._distortions import Blur, Jitter, check_probability, keep_tuples
from ._keys import exp, uniform

INTERPOLATIONS = ("bilinear", "bicubic")

_TRIES = 10  # torchvision's RandomResizedCrop.get_params
_AREA, _RATIO, _TOP, _LEFT = (i * _TRIES for i in range(4))  # first number of ten random fields


@dataclass(frozen=True)
class CropSpec:
    """Random resized crops of one size (Szegedy et al. 2015, arXiv:1409.4842; torchvision's RandomResizedCrop).

    size: side of the square crop, pixels. n_crops: how many per image. scale: share of the image's area, in (0, inf).
    ratio: width / height of the box, drawn uniformly in its logarithm. interpolation: "bilinear" or "bicubic", both
    antialiased. flip, jitter, grey, blur, solarise: these crops' own, where a method distorts its crops differently;
    None: the recipe's.
    """

    size: int
    n_crops: int = 1
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flip: float | None = None
    jitter: Jitter | None = None
    grey: float | None = None
    blur: Blur | None = None
    solarise: float | None = None

    def __post_init__(self) -> None:
        keep_tuples(self, "scale", "ratio")
        if self.size < 1 or self.n_crops < 1:
            raise ValueError(f"size and n_crops must be at least 1, got {self.size} and {self.n_crops}")
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {(low, high)}")
        _check_interpolation(self.interpolation)
        for name in ("flip", "grey", "solarise"):
            if (p := getattr(self, name)) is not None:
                check_probability(name, p)

    def place(self, keys: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box (n, B, 4), resized (n, B, 2) and offset (n, B, 2), int32, for streams `keys` (n, B) and `sizes` (B, 2).

        Ten tries as in torchvision's get_params, the first that fits is taken, else the largest central box of an
        allowed ratio. The arithmetic is float64, each operation correctly rounded, so devices agree to the bit.
        """
        tries = torch.arange(_TRIES, device=keys.device)[:, None, None]
        height, width = sizes.double().unbind(-1)  # (B,)
        low, high = torch.tensor(self.ratio, dtype=torch.float64).log().tolist()
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform(keys, tries + _AREA))
        aspect = exp(low + (high - low) * uniform(keys, tries + _RATIO))
        w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (tries, n, B), half to even
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)

        first = fits.byte().argmax(0, keepdim=True)  # (1, n, B)
        h, w = h.gather(0, first)[0], w.gather(0, first)[0]
        top = ((height - h + 1) * uniform(keys, first[0] + _TOP)).floor()
        left = ((width - w + 1) * uniform(keys, first[0] + _LEFT)).floor()

        # a GPU would divide by a Python number as a product with its reciprocal, which rounds twice
        tallest = (width / torch.full_like(width, self.ratio[0])).round().clamp(min=1)
        whole_h = torch.where(width / height < self.ratio[0], tallest, height)
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
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _check_interpolation(self.interpolation)
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


def _check_interpolation(name: str) -> None:
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {INTERPOLATIONS}, got {name!r}")
