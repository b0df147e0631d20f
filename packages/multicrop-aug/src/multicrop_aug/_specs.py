"""Where crops lie: random resized crops for training, the centre crop for evaluation."""

from dataclasses import dataclass

from ._distortions import Blur, Jitter, check_probability, keep_tuples

INTERPOLATIONS = ("bilinear", "bicubic")


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


def _check_interpolation(name: str) -> None:
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {INTERPOLATIONS}, got {name!r}")
