"""Decode image files of any Pillow mode to uint8 RGB tensors."""

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Pillow may try these formats only, whatever a file is called: other readers can start programs (EPS runs Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_HOW_TO_RAISE = "(set PIL.Image.MAX_IMAGE_PIXELS higher if you trust the file)"
_BYTES_A_PIXEL = 8  # four channels of 16 bits: no file of these formats needs more


class CorruptImage(ValueError):
    """An image that cannot be read: missing, truncated, not an image, a decompression bomb, or of unknown range."""


def decode(data: bytes, upright: bool = True) -> Tensor:
    """Decode the first frame of an image to uint8 (3, H, W), RGB.

    With `upright`, the image is rotated as its EXIF says; torchvision's loaders never do that. Transparency is
    composited on white, 16-bit grey is scaled (v / 257, rounded) and CMYK is converted. Raises CorruptImage with the
    reason. An image of more than `PIL.Image.MAX_IMAGE_PIXELS` is refused as a decompression bomb after its header was
    read, before memory is allocated.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            _refuse_bomb(file)
            file.load()
            array = np.array(_rgb(_turned(file) if upright else file))
    except (CorruptImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptImage(f"decompression bomb: {error} {_HOW_TO_RAISE}") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, zlib.error, ... on damaged files
        reason = "not an image Pillow knows" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise CorruptImage(" ".join(reason.split()) or type(error).__name__) from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def check_size(n_bytes: int) -> None:
    """Raise CorruptImage if a file is larger than any image within the limit of pixels; call before reading it."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and n_bytes > _BYTES_A_PIXEL * limit:
        raise CorruptImage(
            f"{n_bytes:,} bytes, limit {_BYTES_A_PIXEL * limit:,}: too large for {limit} pixels {_HOW_TO_RAISE}"
        )


def _refuse_bomb(image: Image.Image) -> None:
    # Between one and two times its limit Pillow only warns, and warning filters are process-wide, so count here.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise CorruptImage(f"decompression bomb: {image.width}x{image.height} pixels, limit {limit} {_HOW_TO_RAISE}")


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block raises nearly anything, but the image itself may be intact
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = _grey_16_to_8(image)
    if image.mode == "F":
        raise CorruptImage("float pixels have no known range: convert the file to 8 or 16 bit")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey_16_to_8(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # modes I;16, I;16B and I (32-bit)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise CorruptImage(f"integer pixels in [{low}, {high}] do not fit 16 bit: convert the file to 8 or 16 bit")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
