"""Look at a sample of a set's files, for what decides how all of them are read and what a person should know."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ._decode import CorruptImage, decode, has_transparency, is_wide, open_image
from ._range import likely_range
from ._reading import Reading
from ._source import Source

_SAMPLE = 32  # images, evenly spaced
_BANDS, _EXTRA = 277, 338  # TIFF tags: samples per pixel, meaning of the extra ones
_DARK = 12  # times darker than white
_NEAR_BLACK = 16  # of 255: 12-bit values in 16 bits per channel


@dataclass
class Sampled:
    """What a sample of images has in common.

    Attributes:
        n: Images that could be read.
        counts: Images of each odd kind.
        low: Smallest value of the pixels that have more than 8 bits; NaN without such pixels.
        high: Largest such value.
        bulk: Largest value below which 99.9 % of the pixels of an image lie; NaN without such pixels.
        brightest: Largest value of images with 16 bits in each of several channels, as 0 to 255; -1 without them.
    """

    n: int
    counts: Counter[str]
    low: float = np.nan
    high: float = np.nan
    bulk: float = np.nan
    brightest: int = -1


def look(source: Source, reading: Reading) -> Sampled:
    """Read a sample of a set. Images that cannot be read are left out; the policy for corrupt files deals with them."""
    found = Sampled(0, Counter())
    for i in np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(np.int64)).tolist():
        try:
            data = source.read(i)
            if data is None:
                continue
            with open_image(data, reading) as image:
                _look_at(image, data, reading, found)
        except (CorruptImage, MemoryError):
            continue
        except Exception:  # Pillow raises nearly anything on damaged files
            continue
        found.n += 1
    return found


def complete(reading: Reading, sampled: Sampled) -> tuple[Reading, list[str]]:
    """Choose the range of pixels if it was left open. Return the reading and remarks on the images.

    Raises:
        ValueError: If the pixels have no likely range, or if Pillow cannot read them without loss.
    """
    remarks = []
    counts, n = sampled.counts, sampled.n
    n_wide = counts["wide"]
    if counts["not finite"]:
        raise ValueError(f"{counts['not finite']} of {n} images looked at have pixels that are NaN or infinite")
    if counts["float"] and counts["float"] < n_wide and reading.pixel_range is None:
        n_whole = n_wide - counts["float"]
        raise ValueError(
            f"{counts['float']} of {n} images looked at hold floats and {n_whole} hold whole numbers of more than 8 "
            "bits, so they have no range in common: open one kind alone, or name it (--pixel-range LOW,HIGH)"
        )
    if n_wide and reading.pixel_range is None:
        low, high = likely_range(sampled.low, sampled.high, is_float=counts["float"] > 0)
        reading = replace(reading, pixel_range=(low, high), is_found=True)
        if high != 65535:
            remarks.append(
                f"{n_wide} of {n} images looked at hold values from {sampled.low:g} to {sampled.high:g} in more than "
                f"8 bits: {low:g} is taken as black, {high:g} as white (--pixel-range LOW,HIGH changes it)"
            )
    if n_wide and reading.pixel_range is not None and sampled.bulk < reading.pixel_range[1] / _DARK:
        remarks.append(
            f"nearly all pixels lie below {sampled.bulk:g}, so that images are near black; where the few brighter ones "
            f"do not matter, take --pixel-range={sampled.low:g},{sampled.bulk:g}"
        )
    if _NEAR_BLACK <= sampled.brightest < 128:
        remarks.append(
            f"{counts['wide colour']} of {n} images looked at have 16 bits per channel and are dark: their brightest "
            f"value is {sampled.brightest / 2.55:.0f} % of white"
        )
    if 0 <= sampled.brightest < _NEAR_BLACK:
        raise ValueError(
            f"{counts['wide colour']} of {n} images looked at have 16 bits per channel and use the lowest "
            f"{65535 * sampled.brightest // 255 + 257:,} values of 65,536; Pillow reads the upper 8 bits only, which "
            "are near black: scale the files to 8 or to full 16 bits"
        )
    for kind, said in (
        ("blank", f"have no content on {reading.alpha} where they are transparent (--alpha white|black|ignore)"),
        ("fourth band", "are TIFFs whose fourth band is taken for transparency (--alpha ignore leaves it out)"),
        ("more bands", "are TIFFs of more than three bands, of which the first three are read"),
        ("pages", "have several pages or frames, of which the first is read"),
    ):
        if counts[kind]:
            remarks.append(f"{counts[kind]} of {n} images looked at {said}")
    return reading, remarks


def _look_at(image: Image.Image, data: bytes, reading: Reading, found: Sampled) -> None:
    counts = found.counts
    if getattr(image, "n_frames", 1) > 1:
        counts["pages"] += 1
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # of TiffImageFile
        bands, extra = tags.get(_BANDS, 1), tags.get(_EXTRA)
        if bands == 4 and image.mode == "RGBA" and not extra:
            counts["fourth band"] += 1
        elif bands > 3 and image.mode == "RGB":
            counts["more bands"] += 1
    if is_wide(image):
        values = np.asarray(image)
        counts["wide"] += 1
        if not np.isfinite(values).all():
            counts["not finite"] += 1
            return
        counts["float"] += image.mode.startswith("F")
        found.low = float(np.fmin(found.low, values.min()))
        found.high = float(np.fmax(found.high, values.max()))
        found.bulk = float(np.fmax(found.bulk, np.quantile(values, 0.999)))
    elif any("16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        counts["wide colour"] += 1
        found.brightest = max(found.brightest, int(decode(data, replace(reading, alpha="ignore")).max()))
    elif reading.alpha != "ignore" and has_transparency(image):
        image.load()
        is_opaque = image.convert("RGBA").getchannel("A").getextrema()[0] == 255
        pixels = decode(data, reading)
        counts["blank"] += not is_opaque and int(pixels.max()) - int(pixels.min()) < 8
