"""Settings of a recipe: where crops lie (`CropSpec`, `CentreSpec`) and how they are distorted (`Jitter`, `Blur`)."""

from dataclasses import dataclass

INTERPOLATIONS = ("bilinear", "bicubic")


def check_probability(name: str, p: float) -> None:
    """Raise ValueError if p is not a probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {p}")


def keep_tuples(settings: object, *names: str) -> None:
    """Convert fields of a frozen dataclass to tuples. JSON and YAML give lists, but recipes are hashed."""
    for name in names:
        object.__setattr__(settings, name, tuple(getattr(settings, name)))


@dataclass(frozen=True)
class Jitter:
    """Colour jitter as in torchvision's ColorJitter; the order of its four operations is drawn for each crop.

    Args:
        brightness: x >= 0 draws a factor from [max(0, 1 - x), 1 + x].
        contrast: As brightness.
        saturation: As brightness.
        hue: h in [0, 0.5] draws a shift from [-h, h], in turns of the colour circle.
        p: Probability that a crop is jittered at all.

    Raises:
        ValueError: A value is out of range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise ValueError(f"brightness, contrast, saturation must be >= 0 and hue in [0, 0.5], got {self}")
        check_probability("jitter p", self.p)

    def ranges(self) -> list[tuple[float, float]]:
        """Return (low, high) of the factors of brightness, contrast and saturation, and of the hue shift."""
        strengths = (self.brightness, self.contrast, self.saturation)
        return [(max(0.0, 1.0 - x), 1.0 + x) for x in strengths] + [(-self.hue, self.hue)]


@dataclass(frozen=True)
class Blur:
    """Gaussian blur.

    Args:
        p: Probability that a crop is blurred.
        sigma: (low, high) of the standard deviation, drawn uniformly, in pixels of the crop. PIL's GaussianBlur calls
            it radius.

    Raises:
        ValueError: A value is out of range.
    """

    p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        keep_tuples(self, "sigma")
        check_probability("blur p", self.p)
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be (low, high) with 0 < low <= high, got {self.sigma}")


@dataclass(frozen=True)
class CropSpec:
    """Random resized crops of one size (Szegedy et al. 2015, arXiv:1409.4842; torchvision's RandomResizedCrop).

    flip, jitter, grey, blur and solarise apply to these crops only; None takes the recipe's value.

    Args:
        size: Side of the square crop, pixels.
        n_crops: Number of such crops per image.
        scale: (low, high) of the crop's share of the image's area, in (0, inf).
        ratio: (low, high) of the box's width / height; its logarithm is drawn uniformly.
        interpolation: "bilinear" or "bicubic", both antialiased.
        flip: Probability of a horizontal flip.
        jitter: Colour jitter.
        grey: Probability of conversion to grey.
        blur: Gaussian blur.
        solarise: Probability of solarisation.

    Raises:
        ValueError: A value is out of range.
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
    """The evaluation crop: the short side resized to `resize`, then the central `size` x `size` pixels.

    Rounding is that of torchvision's Resize and CenterCrop.

    Args:
        size: Side of the crop, pixels.
        resize: Short side of the resized image, at least `size`.
        n_crops: Always 1.
        interpolation: "bilinear" or "bicubic", both antialiased.

    Raises:
        ValueError: A value is out of range.
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
