"""Types of single settings that are written as text: crops, checkpoint intervals, resident images."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

_CROPS = re.compile(r"^(\d+)x(\d+)(?:@([\d.]+)-([\d.]+))?$")


class Crops(NamedTuple):
    """Crops of one size: `n_crops` of `size` pixels that cover a fraction of the image within `scale`."""

    n_crops: int
    size: int
    scale: tuple[float, float]


def parse_crops(text: str) -> Crops:
    """`2x224@0.14-1` -> two crops of 224 px that cover 14 % to 100 % of the image. Raises ValueError."""
    match = _CROPS.match(text)
    if match is None:
        raise ValueError(f"expected NxSIZE@LOW-HIGH such as 2x224@0.14-1, got '{text}'")
    n, size, low, high = match.groups(default="")
    scale = (float(low or 0.08), float(high or 1.0))
    if not (int(n) > 0 and int(size) > 0 and 0 < scale[0] <= scale[1] <= 1):
        raise ValueError(f"expected at least one crop, a size and 0 < LOW <= HIGH <= 1, got '{text}'")
    return Crops(int(n), int(size), scale)


def parse_interval(text: str) -> tuple[int | None, float | None]:
    """`500` -> (500 steps, None); `15min` -> (None, 900.0 seconds). Raises ValueError."""
    match = re.fullmatch(r"(\d+)( ?min)?", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"expected a number of steps such as 500, or minutes such as 15min, got '{text}'")
    return (None, 60.0 * int(match[1])) if match[2] else (int(match[1]), None)


def _checked_crops(text: str) -> str:
    parse_crops(text)
    return text


def _checked_interval(text: str) -> str:
    parse_interval(text)
    return text


def _checked_resident(text: str) -> str:
    if text not in ("auto", "on", "off") and not (text.isdecimal() and 8 <= int(text) <= 4096):
        raise ValueError(f"expected auto, on, off or a size from 8 to 4096 pixels such as 160, got '{text}'")
    return text


CropsText = Annotated[str, AfterValidator(_checked_crops)]
IntervalText = Annotated[str, BeforeValidator(str), AfterValidator(_checked_interval)]
ResidentText = Annotated[str, BeforeValidator(str), AfterValidator(_checked_resident)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Hue = Annotated[float, Field(ge=0, le=0.5)]
