"""Decodes encoded images and PIL images to RGB pixels."""

import io
from dataclasses import replace

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
import torch
from PIL import Image
from torch import Tensor

from ._operations import CropGroup
from ._plan import CropPlan

_JPEG = b"\xff\xd8"


def decode_rgb(file: bytes) -> Tensor:
    """Decode a JPEG, PNG, ... file to uint8 (3, H, W) pixels, as PIL's `convert("RGB")` does.

    The EXIF orientation is not applied, transparency is dropped, grey becomes three equal channels, and PIL converts
    CMYK and 16 bits. The result is a channels-last view. libjpeg-turbo decodes JPEGs without PIL's copies. If it
    refuses a file, PIL decodes it, or raises its own error for a broken one.
    """
    pixels = _turbo_decoded(file)
    return rgb_pixels(Image.open(io.BytesIO(file))) if pixels is None else pixels


def _turbo_decoded(file: bytes, factor: int = 1) -> Tensor | None:
    """Decode a JPEG to uint8 (3, H / factor, W / factor), sides rounded up; factor: 1, 2, 4 or 8.

    Returns None for a file that is not a JPEG, is CMYK or is broken.
    """
    if file[:2] != _JPEG:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(file)
        if colours not in ("Gray", "YCbCr", "RGB"):
            return None
        small = {"min_height": -(-height // factor), "min_width": -(-width // factor), "min_factor": factor}
        return torch.from_numpy(simplejpeg.decode_jpeg(file, **small)).permute(2, 0, 1)
    except ValueError:
        return None


def rgb_pixels(image: Image.Image) -> Tensor:
    """Return a PIL image of any mode as uint8 (3, H, W), a channels-last view."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def image_size(file: bytes) -> tuple[int, int]:
    """Return height and width of an encoded image, from its header."""
    width, height = Image.open(io.BytesIO(file)).size
    return height, width


def decode_reduced(file: bytes, plan: CropPlan) -> tuple[Tensor, CropPlan]:
    """Decode one JPEG at a half, a quarter or an eighth of its size, and adapt the plan of its crops to that size.

    It takes the smallest size at which every box still has at least as many pixels as its crop. Boxes are rounded to
    whole pixels. Other file formats, and plans that need all pixels, give the whole image and the plan unchanged.
    """
    spare = min(float((group.box[..., 2:] / group.resized).min()) for group in plan.groups)
    factor = max((f for f in (8, 4, 2) if f <= spare), default=1)
    pixels = _turbo_decoded(file, factor) if factor > 1 else None
    if pixels is None:
        return decode_rgb(file), plan
    sizes = torch.tensor([pixels.shape[1:]])
    groups = tuple(_moved(group, plan.sizes, sizes) for group in plan.groups)
    return pixels, replace(plan, groups=groups, sizes=sizes)


def _moved(group: CropGroup, old: Tensor, new: Tensor) -> CropGroup:
    """Return the group with its boxes scaled to an image of another size, each side at the nearest pixel border."""
    scale = new / old  # (1, 2)
    start = (group.box[..., :2] * scale).round()
    stop = ((group.box[..., :2] + group.box[..., 2:]) * scale).round()
    return replace(group, box=torch.cat((start, stop - start), -1).int())
