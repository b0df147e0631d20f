"""Decode image files of any Pillow mode to uint8 RGB tensors."""

import functools
import importlib.util
import io
import re
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, features
from torch import Tensor

from ._range import OVERSHOOT, to_8_bit
from ._reading import AS_USUAL, Reading

_HEIF = (".heic", ".heif") if importlib.util.find_spec("pillow_heif") else ()  # the extra `heif`
_AVIF = (".avif",) if features.check("avif") else ()  # Pillow from 11.3

EXTENSIONS = tuple(
    sorted(
        (
            *(".apng", ".bmp", ".dib", ".gif", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
            *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
            *_AVIF,
            *_HEIF,
        )
    )
)

# Pillow may try these formats only, whatever a file is called: other readers can start programs (EPS runs Ghostscript).
_FORMATS = ["BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *(["AVIF"] if _AVIF else [])]
_HOW_TO_RAISE = "(where you trust the files, raise it with max_pixels, on a command line --max-pixels)"
_BYTES_A_PIXEL = 8  # four channels of 16 bits: no file of these formats needs more
# Pillow's own limit is compared in `open_image`; beside that error, its warning would say the same again.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_WIDE_MODES = re.compile(r"I.*|F.*")  # modes of more than 8 bits: I, I;16, I;16B, F


class CorruptImage(ValueError):
    """An image that cannot be read: missing, truncated, not an image, a decompression bomb, or of unknown range."""


def decode(data: bytes, reading: Reading = AS_USUAL, at_least: int | None = None) -> Tensor:
    """Decode the first frame of an image to uint8 (3, H, W), RGB.

    Pixels of more than 8 bits are scaled by the reading's range and rounded, transparency is composited and CMYK is
    converted, see `Reading`. torchvision's loaders never rotate an image as its EXIF says.

    Args:
        data: The file.
        reading: How it is to be read.
        at_least: A JPEG may be shrunk by 2, 4 or 8 while it is read, as long as its short side keeps at least twice
            this number of pixels. That saves memory and time. None keeps the size.

    Raises:
        CorruptImage: With the reason. An image of more than the limit of pixels is refused as a decompression bomb
            after its header was read, before memory is allocated.
    """
    try:
        with open_image(data, reading) as file:
            if at_least is not None:
                _shrink_while_reading(file, at_least)
            file.load()
            array = np.array(_rgb(_turned(file) if reading.upright else file, reading))
    except (CorruptImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptImage(f"decompression bomb: {error} {_HOW_TO_RAISE}") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, zlib.error, ... on damaged files
        reason = "not an image Pillow knows" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise CorruptImage(" ".join(reason.split()) or type(error).__name__) from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def open_image(data: bytes, reading: Reading) -> Image.Image:
    """Read the header of an image. Raises CorruptImage if it has too many pixels, and Pillow's errors."""
    limit = _limit(reading)
    if limit is not None and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow has one limit for the whole process and checks it itself, so a higher one must be told to it.
        Image.MAX_IMAGE_PIXELS = max(limit, Image.MAX_IMAGE_PIXELS)
    formats = _FORMATS
    if _HEIF and data[4:8] == b"ftyp":
        _register_heif()
        formats = [*_FORMATS, "HEIF"]
    image = Image.open(io.BytesIO(data), formats=formats)
    # Between one and two times its limit Pillow only warns, and warning filters are process-wide, so count here.
    if limit is not None and image.width * image.height > limit:
        raise CorruptImage(f"decompression bomb: {image.width}x{image.height} pixels, limit {limit} {_HOW_TO_RAISE}")
    return image


@functools.cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()


def check_size(n_bytes: int, reading: Reading = AS_USUAL) -> None:
    """Raise CorruptImage if a file is larger than any image within the limit of pixels; call before reading it."""
    limit = _limit(reading)
    if limit is not None and n_bytes > _BYTES_A_PIXEL * limit:
        raise CorruptImage(
            f"{n_bytes:,} bytes, limit {_BYTES_A_PIXEL * limit:,}: too large for {limit} pixels {_HOW_TO_RAISE}"
        )


def is_wide(image: Image.Image) -> bool:
    """Tell whether pixels have more than 8 bits, so that they need a range."""
    return _WIDE_MODES.fullmatch(image.mode) is not None


def has_transparency(image: Image.Image) -> bool:
    """Tell whether some pixels may be transparent."""
    return "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")


def _limit(reading: Reading) -> int | None:
    return Image.MAX_IMAGE_PIXELS if reading.max_pixels is None else reading.max_pixels


def _shrink_while_reading(image: Image.Image, at_least: int) -> None:
    if image.format == "JPEG":
        factor = 2 * at_least / min(image.size)
        if factor < 1:  # draft keeps at least the size it is given
            image.draft(None, (int(image.width * factor), int(image.height * factor)))


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block raises nearly anything, but the image itself may be intact
        return image


def _rgb(image: Image.Image, reading: Reading) -> Image.Image:
    if is_wide(image):
        image = _grey_to_8_bit(image, reading)
    if reading.alpha != "ignore" and has_transparency(image):
        behind = Image.new("RGBA", image.size, reading.alpha)
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_to_8_bit(image: Image.Image, reading: Reading) -> Image.Image:
    values = np.asarray(image)
    is_float = image.mode.startswith("F")
    if is_float and not np.isfinite(values).all():
        raise CorruptImage("pixels are NaN or infinite")
    lowest, highest = float(values.min()), float(values.max())
    if reading.pixel_range is None:
        if is_float:
            raise CorruptImage("float pixels have no known range: name it with pixel_range (--pixel-range LOW,HIGH)")
        if lowest < 0 or highest > 65535:
            raise CorruptImage(
                f"integer pixels in [{lowest:g}, {highest:g}] do not fit 16 bit: name their range with pixel_range "
                "(--pixel-range LOW,HIGH)"
            )
        return Image.fromarray(to_8_bit(values, 0, 65535))
    low, high = reading.pixel_range
    beyond = OVERSHOOT * (high - low) if is_float else 0.0
    if reading.is_found and (lowest < low - beyond or highest > high + beyond):
        raise CorruptImage(
            f"pixels from {lowest:g} to {highest:g} are beyond {low:g} to {high:g}, which a sample of the images has: "
            "name the range with pixel_range (--pixel-range LOW,HIGH)"
        )
    return Image.fromarray(to_8_bit(values, low, high))
