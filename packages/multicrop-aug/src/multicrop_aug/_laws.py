"""What a recipe draws from, as arrays of constants: the form in which the compiled draw and NumPy's read it."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ._operations import FLAGS, NUMBERS, PERMUTATIONS, Setting
from ._specs import CentreSpec, CropSpec

TRIES = 10  # boxes that are tried, as in torchvision's RandomResizedCrop.get_params
AREA, RATIO, TOP, LEFT = (i * TRIES for i in range(4))  # first of a box's random fields, one a try
ORDERS = np.array(list(itertools.permutations(range(4))), np.uint8)  # (24, 4)

# the random fields of the operations, in the order of the rows and columns of the laws below
FLAG_FIELDS = np.array([flag.first_field for flag in FLAGS], np.uint64)
NUMBER_FIELDS = np.array([draw.first_field + i for draw in NUMBERS for i in range(draw.n)], np.uint64)
CENTRED = np.array([draw.centred for draw in NUMBERS for _ in range(draw.n)])
PERMUTATION_FIELDS = np.array([draw.first_field for draw in PERMUTATIONS], np.uint64)

# The float32 tensors of n crops of B images lie in one piece, one after the other, each (n, B) or (n, B, its numbers):
# number k of crop v of image b is at STARTS[k] * n * B + STEPS[k] * (v * B + b) + LANES[k].
N_NUMBERS = len(NUMBER_FIELDS)
NUMBERS_BEFORE = [sum(draw.n for draw in NUMBERS[:i]) for i in range(len(NUMBERS))]  # of each tensor
STARTS = np.array([before for draw, before in zip(NUMBERS, NUMBERS_BEFORE, strict=True) for _ in range(draw.n)])
STEPS = np.array([draw.n for draw in NUMBERS for _ in range(draw.n)])
LANES = np.array([i for draw in NUMBERS for i in range(draw.n)])


class GroupLaw(NamedTuple):
    """The n crops of one size: constants with a row a crop."""

    size: int
    interpolation: str
    resize: np.ndarray  # (n,) int64: short side that a centre crop's image is resized to; 0 for random crops
    boxes: np.ndarray  # (n, 6) float64: scale's low end and span, log ratio's low end and span, ratio's ends
    flags: np.ndarray  # (n, number of flags) float64: probabilities
    numbers: np.ndarray  # (n, number of numbers, 2) float64: shift and scale


def laws_of(specs: Sequence[tuple[CropSpec | CentreSpec, Setting]]) -> tuple[GroupLaw, ...]:
    """The laws of specs and their settings: neighbouring specs of one size and interpolation share a group."""
    groups: list[list[tuple[CropSpec | CentreSpec, Setting]]] = []
    for spec, setting in specs:
        if not groups or (groups[-1][-1][0].size, groups[-1][-1][0].interpolation) != (spec.size, spec.interpolation):
            groups.append([])
        groups[-1] += [(spec, setting)] * spec.n_crops
    return tuple(_group_law(crops) for crops in groups)


def _group_law(crops: list[tuple[CropSpec | CentreSpec, Setting]]) -> GroupLaw:
    spec = crops[0][0]
    return GroupLaw(
        spec.size,
        spec.interpolation,
        np.array([spec.resize if isinstance(spec, CentreSpec) else 0 for spec, _ in crops]),
        np.array([_box_law(spec) for spec, _ in crops]),
        np.array([[flag.law(setting) for flag in FLAGS] for _, setting in crops], np.float64),
        np.array([[law for draw in NUMBERS for law in draw.law(setting)] for _, setting in crops], np.float64),
    )


def _box_law(spec: CropSpec | CentreSpec) -> list[float]:
    if isinstance(spec, CentreSpec):
        return [0.0] * 6
    # torch's logarithm, whose last bit is not always that of math.log: a seed means the boxes that it gave
    low, high = torch.tensor(spec.ratio, dtype=torch.float64).log().tolist()
    return [spec.scale[0], spec.scale[1] - spec.scale[0], low, high - low, *spec.ratio]
