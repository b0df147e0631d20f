"""The operations: the tensors of a plan, what is drawn for each of them, and when a recipe has an operation on.

docs/libraries/multicrop-aug.md, "Adding an operation", lists the other files that a new operation needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ._settings import Jitter

Setting = Callable[[str], Any]  # maps the name of a setting to its value for the crops of one spec
PLACE = ("box", "resized", "offset")  # the tensors of CropGroup that say where a crop lies


@dataclass(frozen=True, eq=False)
class CropGroup:
    """The n crops of one size for B images.

    A crop is made in this order. The box is cut from the image and resized to `resized`; the (size, size) window at
    `offset` is the crop. Then come the other operations, in the plan's order, where their flags are set. The kernels
    of the backends take the tensors in the order of this list.

    Attributes:
        size: Side of the crops, pixels.
        box: (n, B, 4) int32: top, left, height, width, in pixels of the source image.
        resized: (n, B, 2) int32: height and width that the box is resized to.
        offset: (n, B, 2) int32: top and left of the window, in pixels of the resized box.
        flip: (n, B) bool.
        angle: (n, B) float32, degrees, counter-clockwise as in torchvision; 0 means no rotation.
        jitter: (n, B) bool.
        factors: (n, B, 4) float32: brightness, contrast, saturation (>= 0), hue (turns, [-0.5, 0.5]).
        jitter_order: (n, B, 4) uint8: which factor comes first, second, ...
        grey: (n, B) bool.
        blur: (n, B) bool.
        sigma: (n, B) float32, standard deviation of the Gaussian, in pixels of the crop.
        solarise: (n, B) bool.
        interpolation: "bilinear", or "bicubic" (a = -0.5), clamped to [0, 1]; both antialiased.
    """

    size: int
    box: Tensor
    resized: Tensor
    offset: Tensor
    flip: Tensor
    angle: Tensor
    jitter: Tensor
    factors: Tensor
    jitter_order: Tensor
    grey: Tensor
    blur: Tensor
    sigma: Tensor
    solarise: Tensor
    interpolation: str = "bilinear"

    @property
    def n_crops(self) -> int:
        """Number of crops of this size per image."""
        return self.flip.shape[0]

    def apply(self, fn: Callable[[Tensor], Tensor]) -> "CropGroup":
        """Return the group with `fn` applied to every tensor."""
        tensors = {name: fn(tensor) for name, tensor in self.tensors().items()}
        return CropGroup(size=self.size, interpolation=self.interpolation, **tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the group by name, in order."""
        return {name: getattr(self, name) for name in TENSORS}


@dataclass(frozen=True)
class Flag:
    """A bool tensor of the plan, true with probability `law(setting)`."""

    tensor: str  # its name in CropGroup
    first_field: int
    law: Callable[[Setting], float]
    n_fields = 1


@dataclass(frozen=True)
class Numbers:
    """A float32 tensor of the plan with `n` numbers per crop, each `shift + scale * u`.

    `law(setting)` gives the (shift, scale) of each number. u is uniform in [0, 1), or in [-1, 1) if `centred`.
    """

    tensor: str
    first_field: int
    law: Callable[[Setting], list[tuple[float, float]]]
    n: int = 1
    centred: bool = False

    @property
    def n_fields(self) -> int:
        """Number of random fields that it takes."""
        return self.n


@dataclass(frozen=True)
class Permutation:
    """A uint8 tensor of the plan: the numbers 0 to 3 in one of their 24 orders, all equally likely."""

    tensor: str
    first_field: int
    n_fields = 1


@dataclass(frozen=True)
class Operation:
    """One row of the table. Its index in the table is its number in the kernels.

    Attributes:
        name: Its name in `Recipe.order`.
        is_on: Whether a crop of a spec can get it.
        draws: The tensors that it draws.
        words: What a preview says about one crop, given as a group without the dimensions n and B.
    """

    name: str
    is_on: Callable[[Setting], bool]
    draws: tuple[Flag | Numbers | Permutation, ...]
    words: Callable[[CropGroup], list[str]]


def _jitter_changes_something(setting: Setting) -> bool:
    jitter = setting("jitter")
    return bool(jitter.p > 0 and jitter != Jitter(p=jitter.p))


def _jitter_words(crop: CropGroup) -> list[str]:
    if not crop.jitter:
        return []
    brightness, contrast, saturation, hue = crop.factors.tolist()
    factors = [
        (brightness != 1, f"bri {brightness:.2f}"),
        (contrast != 1, f"con {contrast:.2f}"),
        (saturation != 1, f"sat {saturation:.2f}"),
        (hue != 0, f"hue {360 * hue:+.0f}°"),
    ]
    return [factors[k][1] for k in crop.jitter_order.tolist() if factors[k][0]]


# Random fields 0 to 39 belong to the boxes (_laws.py). Never renumber a field: that would change what every seed draws.
TABLE = (
    Operation(
        "flip",
        is_on=lambda setting: setting("flip") > 0,
        draws=(Flag("flip", 40, lambda setting: setting("flip")),),
        words=lambda crop: ["flip"] * bool(crop.flip),
    ),
    Operation(
        "rotation",
        is_on=lambda setting: setting("rotation_degrees") > 0,
        # adding -0.0 changes nothing, not even the sign of a zero
        draws=(Numbers("angle", 41, lambda setting: [(-0.0, setting("rotation_degrees"))], centred=True),),
        words=lambda crop: [f"turn {crop.angle.item():+.1f}°"] * bool(crop.angle != 0),
    ),
    Operation(
        "jitter",
        is_on=_jitter_changes_something,
        draws=(
            Flag("jitter", 42, lambda setting: setting("jitter").p),
            Numbers("factors", 43, lambda setting: _spans(*setting("jitter").ranges()), n=4),
            Permutation("jitter_order", 47),
        ),
        words=_jitter_words,
    ),
    Operation(
        "grey",
        is_on=lambda setting: setting("grey") > 0,
        draws=(Flag("grey", 48, lambda setting: setting("grey")),),
        words=lambda crop: ["grey"] * bool(crop.grey),
    ),
    Operation(
        "blur",
        is_on=lambda setting: setting("blur").p > 0,
        draws=(
            Flag("blur", 49, lambda setting: setting("blur").p),
            Numbers("sigma", 50, lambda setting: _spans(setting("blur").sigma)),
        ),
        words=lambda crop: [f"blur {crop.sigma.item():.1f}"] * bool(crop.blur),
    ),
    Operation(
        "solarise",
        is_on=lambda setting: setting("solarise") > 0,
        draws=(Flag("solarise", 51, lambda setting: setting("solarise")),),
        words=lambda crop: ["solarise"] * bool(crop.solarise),
    ),
)


def _spans(*ranges: tuple[float, float]) -> list[tuple[float, float]]:
    """Convert (low, high) to (low, high - low)."""
    return [(low, high - low) for low, high in ranges]


OPERATIONS = tuple(operation.name for operation in TABLE)
TENSORS = tuple(f.name for f in fields(CropGroup) if f.name not in ("size", "interpolation"))
BY_NAME = {operation.name: operation for operation in TABLE}
NUMBER_OF = {name: number for number, name in enumerate(OPERATIONS)}
DRAWS = tuple(draw for operation in TABLE for draw in operation.draws)
FLAGS = tuple(draw for draw in DRAWS if isinstance(draw, Flag))
NUMBERS = tuple(draw for draw in DRAWS if isinstance(draw, Numbers))
PERMUTATIONS = tuple(draw for draw in DRAWS if isinstance(draw, Permutation))
