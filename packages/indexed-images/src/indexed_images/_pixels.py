"""Arrays of images of any shape and number type, as uint8."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ._range import likely_range, to_8_bit

Range = tuple[float, float]  # pixel values that become 0 and 255

_CHANNELS = (1, 3)
_NEAR_BLACK = 16  # of 255
_CHUNK = 1 << 24  # pixels that are looked at, or scaled, at a time
_SAMPLE = 32


class Shape(NamedTuple):
    """How an array holds images.

    Attributes:
        axis: The axis of channels, or None if there is none.
        remark: A sentence if it could be understood otherwise.
    """

    axis: int | None
    remark: str | None = None


def shape_of(shape: tuple[int, ...], dtype: np.dtype, where: str) -> Shape:
    """Tell how an array of this shape holds images: (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels.

    Raises:
        ValueError: If it holds none.
    """
    if dtype.kind not in "buif" or dtype.hasobject:
        raise ValueError(f"{where}: images must be numbers, got {dtype} {shape}")
    if 0 in shape:
        raise ValueError(f"{where} is empty: images of shape {shape}")
    if len(shape) == 3:
        if shape[2] in _CHANNELS:
            raise ValueError(f"{where}: {shape} looks like a single image: images must be (N, H, W) or (N, H, W, 3)")
        return Shape(None)
    if len(shape) == 4 and shape[3] in _CHANNELS:
        if shape[1] in _CHANNELS:
            return Shape(3, f"{where}: images of shape {shape} are taken for (N, H, W, C), not (N, C, H, W)")
        return Shape(3)
    if len(shape) == 4 and shape[1] in _CHANNELS:
        return Shape(1)
    hint = "reshape them" if len(shape) < 3 else "leave out other channels, such as transparency"
    raise ValueError(f"{where}: images must be (N, H, W) or (N, H, W, C) with C = 1 or 3, got {shape}: {hint}")


def channels_last(images: np.ndarray, axis: int | None) -> np.ndarray:
    """Return a view of images, or of one without its first axis: (..., H, W, 3), or (..., H, W) of one channel."""
    if axis is None:
        return images
    images = np.moveaxis(images, axis - 4, -1)
    return images[..., 0] if images.shape[-1] == 1 else images


class Extent(NamedTuple):
    """The pixels of an array: their smallest and largest value, their type, and what the array is for messages."""

    low: float
    high: float
    dtype: np.dtype
    where: str

    def __str__(self) -> str:
        return f"{self.dtype} from {self.low:g} to {self.high:g}"


def extent(array: np.ndarray, where: str) -> Extent:
    """Return the extent of an array of images; that of its type for bool and uint8, which have a range of their own."""
    if array.dtype == np.uint8 or array.dtype.kind == "b":
        return Extent(0, 1 if array.dtype.kind == "b" else 255, array.dtype, where)
    low, high = np.inf, -np.inf
    for chunk in _chunks(array):
        low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())
    return Extent(float(low), float(high), array.dtype, where)


def find_range(extents: Sequence[Extent]) -> tuple[Range, str]:
    """Return the values that become 0 and 255 for arrays of images that share a range, and a remark on the first.

    Raises:
        ValueError: If no range is likely, the arrays have none in common, or images would be near black.
    """
    first = extents[0]
    lit = [own for own in extents if own.low or own.high] or [first]  # arrays of zeros fit any range
    ranges = [_own_range(own) for own in lit]
    if {own.dtype.kind == "f" for own in lit} == {False}:  # whole numbers share a range, however dark some are
        joint = [own for own in lit if own.dtype.kind != "b" and own.dtype != np.uint8]
        ends = [min((own.low for own in joint), default=0), max((own.high for own in joint), default=0)]
        ranges = [likely_range(*ends, is_float=False) if own in joint else _own_range(own) for own in lit]
    elif len({own.dtype.kind for own in lit}) == 1 and (0.0, 1.0) not in ranges:
        ends = [min(own.low for own in lit), max(own.high for own in lit)]
        ranges = [likely_range(*ends, is_float=True)] * len(lit)
    sure = [own for own, found in zip(lit, ranges, strict=True) if own.dtype == np.uint8 and (0.0, 1.0) in ranges]
    known = {found for own, found in zip(lit, ranges, strict=True) if own not in sure}
    is_dark = [0 < own.high < _NEAR_BLACK / 255 * white for own, (_, white) in zip(lit, ranges, strict=True)]
    if len(known) > 1 or (len(lit) > 1 and any(is_dark)):
        said = ", ".join(f"{own} ({own.where})" for own in lit)
        raise ValueError(
            f"pixels of the splits have different ranges: {said}: scale them alike, or name one range for all as "
            "pixel_range (--pixel-range LOW,HIGH)"
        )
    black, white = next((found for own, found in zip(lit, ranges, strict=True) if own is first), ranges[0])
    if is_dark[0]:
        raise ValueError(
            f"{lit[0].where}: pixels from {lit[0].low:g} to {lit[0].high:g} are near black in a range of {black:g} to "
            f"{white:g}: give the range as pixel_range (--pixel-range LOW,HIGH)"
        )
    if first.dtype.kind == "b":
        return (0.0, 1.0), "images are bool: False is taken as black, True as white"
    said = f"pixels are {first}: {black:g} is taken as black, {white:g} as white"
    return (black, white), f"{said} (--pixel-range LOW,HIGH changes it)"


def _own_range(own: Extent) -> Range:
    try:
        return likely_range(own.low, own.high, is_float=own.dtype.kind in "fb")
    except ValueError as error:
        raise ValueError(f"{own.where}: {error} (--pixel-range LOW,HIGH)") from None


def scaled(images: np.ndarray, black: float, white: float) -> np.ndarray:
    """Return uint8 pixels in the same shape."""
    found = np.empty(images.shape, dtype=np.uint8)
    start = 0
    for chunk in _chunks(images):
        found[start : start + len(chunk)] = to_8_bit(chunk, black, white)
        start += len(chunk)
    return found


def dark(images: np.ndarray) -> str | None:
    """Return a remark if uint8 images, judged by some of them, are near black; None otherwise."""
    chosen = np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(np.int64))
    highest = max(int(images[i].max()) for i in chosen)
    if not 0 < highest < _NEAR_BLACK:
        return None
    return (
        f"no pixel of {len(chosen)} images looked at is above {highest} of 255: they are near black, so scale the file"
    )


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _CHUNK // max(1, images[0].size))
    for start in range(0, len(images), step):
        yield images[start : start + step]
