"""How image files become 8-bit RGB, and which fields of a table hold the image and the label."""

from dataclasses import dataclass
from typing import Literal

Alpha = Literal["white", "black", "ignore"]


@dataclass(frozen=True)
class Reading:
    """How encoded images are decoded.

    Attributes:
        upright: Whether images are rotated as their EXIF says.
        alpha: What is behind transparent pixels; "ignore" keeps the colours of the file and drops the transparency.
        pixel_range: Values (low, high) of images of 16 or 32 bits or of floats that become 0 and 255. None means
            (0, 65535), and that images of floats are refused.
        is_found: Whether the range was found from a sample. Then values beyond it are an error; else they are clipped.
        max_pixels: Most pixels an image may have; None means Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS`.
    """

    upright: bool = True
    alpha: Alpha = "white"
    pixel_range: tuple[float, float] | None = None
    is_found: bool = False
    max_pixels: int | None = None


@dataclass(frozen=True)
class Fields:
    """Names of the columns, fields or arrays of a table; None means that they are found by their usual names."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Notes:
    """What a person should know of how a source was understood.

    Attributes:
        remarks: Sentences for the header of a run: what was passed over, stripped or taken for something.
        place: Where in the source the split was found, such as "valid/"; empty if the whole source is the split.
    """

    remarks: tuple[str, ...] = ()
    place: str = ""

    def plus(self, *remarks: str | None) -> "Notes":
        """Return these notes with more remarks; None and '' are left out."""
        return Notes((*self.remarks, *filter(None, remarks)), self.place)


NO_NOTES = Notes()
AS_USUAL = Reading()
