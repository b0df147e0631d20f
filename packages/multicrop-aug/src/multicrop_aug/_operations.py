"""The table of operations: what each one draws, when a recipe has it on, and what a preview says of it.

docs/libraries/multicrop-aug.md, "Adding an operation", names the other files that a new one needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._distortions import Jitter
from ._plan import CropGroup

Setting = Callable[[str], Any]  # the value of a recipe's setting for the crops of one spec, by name


@dataclass(frozen=True)
class Flag:
    """A bool tensor of the plan, true with probability `law(setting)`."""

    tensor: str  # its name in CropGroup
    first_field: int
    law: Callable[[Setting], float]
    n_fields = 1


@dataclass(frozen=True)
class Numbers:
    """`n` float32 numbers of the plan, each `shift + scale * u`; `law(setting)` gives the (shift, scale) of each.

    u is uniform in [0, 1), or in [-1, 1) where `centred`.
    """

    tensor: str
    first_field: int
    law: Callable[[Setting], list[tuple[float, float]]]
    n: int = 1
    centred: bool = False

    @property
    def n_fields(self) -> int:
        """How many random fields it takes."""
        return self.n


@dataclass(frozen=True)
class Permutation:
    """A uint8 tensor of the plan: 0, 1, 2, 3 in one of their 24 orders, each as likely."""

    tensor: str
    first_field: int
    n_fields = 1


@dataclass(frozen=True)
class Operation:
    """One row of the table. Its place in the table is its number in the kernels.

    is_on: whether some crop of a spec may get it. words: what a preview says of one crop (n = B = 1 taken off).
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


# Numbers of the random fields: 0 to 39 are those of the boxes (_draw.py). Never renumber: a seed means these numbers.
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
        # -0.0 is the number that changes nothing when it is added, the sign of a zero included
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
    """(low, high) to (low, high - low)."""
    return [(low, high - low) for low, high in ranges]


OPERATIONS = tuple(operation.name for operation in TABLE)
BY_NAME = {operation.name: operation for operation in TABLE}
NUMBER_OF = {name: number for number, name in enumerate(OPERATIONS)}
DRAWS = tuple(draw for operation in TABLE for draw in operation.draws)
FLAGS = tuple(draw for draw in DRAWS if isinstance(draw, Flag))
NUMBERS = tuple(draw for draw in DRAWS if isinstance(draw, Numbers))
PERMUTATIONS = tuple(draw for draw in DRAWS if isinstance(draw, Permutation))
