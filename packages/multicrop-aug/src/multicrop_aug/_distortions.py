"""Distortions with more than one constant: colour jitter and blur."""

from dataclasses import dataclass


def check_probability(name: str, p: float) -> None:
    """Raise ValueError if p is no probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {p}")


def keep_tuples(settings: object, *names: str) -> None:
    """Make tuples of a frozen dataclass's fields, which come as lists from JSON and YAML: recipes are hashed."""
    for name in names:
        object.__setattr__(settings, name, tuple(getattr(settings, name)))


@dataclass(frozen=True)
class Jitter:
    """Colour jitter as torchvision's ColorJitter, its four operations in an order drawn per crop.

    brightness, contrast, saturation: x >= 0 draws a factor from [max(0, 1 - x), 1 + x]. hue: h in [0, 0.5] draws a
    shift from [-h, h] turns. p: probability that a crop is jittered at all.
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
        """(low, high) of the four factors."""
        strengths = (self.brightness, self.contrast, self.saturation)
        return [(max(0.0, 1.0 - x), 1.0 + x) for x in strengths] + [(-self.hue, self.hue)]


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with probability p; sigma, drawn uniformly, is what PIL's GaussianBlur calls radius (pixels)."""

    p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        keep_tuples(self, "sigma")
        check_probability("blur p", self.p)
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be (low, high) with 0 < low <= high, got {self.sigma}")
