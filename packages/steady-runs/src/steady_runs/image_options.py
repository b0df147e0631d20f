"""Options of every command that opens images, for `indexed_images.open_images`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PositiveInt

from steady_runs.settings import Settings


def parse_range(text: str) -> tuple[float, float] | Literal["auto"]:
    """Read a range of pixel values.

    Args:
        text: `0,4095`, or `auto`.

    Returns:
        (0.0, 4095.0), or "auto".

    Raises:
        ValueError: For any other text.
    """
    if text == "auto":
        return "auto"
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = math.inf, -math.inf
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"expected auto or LOW,HIGH such as 0,4095, got '{text}'")
    return low, high


def _checked_range(text: str) -> str:
    parse_range(text)
    return text


class ImageOptions(Settings):
    """how images are read"""

    download: bool = False
    """Let cifar10, cifar100 and stl10 download their files."""
    image_field: str | None = None
    """Column, field or array that holds the images of a table; found by its usual name if not given."""
    label_field: str | None = None
    """Column, field or array that holds the labels of a table, or field of .json members; found if not given."""
    pixel_range: Annotated[str, AfterValidator(_checked_range)] = "auto"
    """Pixel values LOW,HIGH that become black and white, in images of more than 8 bits; auto = found from a sample.
    With a negative number, write --pixel-range=LOW,HIGH."""
    alpha: Literal["white", "black", "ignore"] = "white"
    """What is behind transparent pixels; ignore = the colours as they are, without transparency."""
    max_pixels: PositiveInt | None = None
    """Most pixels an image may have, as a guard against decompression bombs; 89 million if not given."""

    def for_opening(self) -> dict[str, Any]:
        """The options as arguments of `open_images`."""
        values = {name: getattr(self, name) for name in ImageOptions.model_fields}
        return values | {"pixel_range": parse_range(self.pixel_range)}
