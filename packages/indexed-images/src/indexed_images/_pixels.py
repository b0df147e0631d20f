"""Arrays of images of any shape and number type, as uint8."""

from collections.abc import Iterable, Iterator
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


def find_range(arrays: Iterable[np.ndarray], where: str) -> tuple[Range, str]:
    """Return the values that become 0 and 255 for arrays of images that share a range, and a remark.

    Raises:
        ValueError: If no range is likely, or the images would be near black.
    """
    low, high, kinds, types = np.inf, -np.inf, set(), []
    for array in arrays:
        for chunk in _chunks(array):
            low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())
        kinds.add(array.dtype.kind)
        types.append(str(array.dtype))
    if kinds == {"b"}:
        return (0.0, 1.0), "images are bool: False is taken as black, True as white"
    try:
        black, white = likely_range(float(low), float(high), is_float="f" in kinds)
    except ValueError as error:
        raise ValueError(f"{where}: {error} (--pixel-range LOW,HIGH)") from None
    if 0 < high < _NEAR_BLACK / 255 * white:
        raise ValueError(
            f"{where}: pixels from {low:g} to {high:g} are near black in a range of {black:g} to {white:g}: give the "
            "range as pixel_range (--pixel-range LOW,HIGH)"
        )
    said = f"pixels are {types[0]} from {low:g} to {high:g}: {black:g} is taken as black, {white:g} as white"
    return (black, white), f"{said} (--pixel-range LOW,HIGH changes it)"


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
