"""The distributions that a recipe draws from, as arrays of constants for the compiled draw and the NumPy draw."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ._operations import FLAGS, NUMBERS, PERMUTATIONS, Setting
from ._settings import CentreSpec, CropSpec

TRIES = 10  # attempts to find a box that fits, as in torchvision's RandomResizedCrop.get_params
AREA, RATIO, TOP, LEFT = (i * TRIES for i in range(4))  # first random field of each, one per attempt
ORDERS = np.array(list(itertools.permutations(range(4))), np.uint8)  # (24, 4)

# the random fields of the operations, in the order of the columns of GroupLaw.flags and GroupLaw.numbers
FLAG_FIELDS = np.array([flag.first_field for flag in FLAGS], np.uint64)
NUMBER_FIELDS = np.array([draw.first_field + i for draw in NUMBERS for i in range(draw.n)], np.uint64)
CENTRED = np.array([draw.centred for draw in NUMBERS for _ in range(draw.n)])
PERMUTATION_FIELDS = np.array([draw.first_field for draw in PERMUTATIONS], np.uint64)

# The float32 tensors of n crops of B images share one buffer, one after the other, each (n, B) or (n, B, its numbers).
# Number k of crop v of image b is at STARTS[k] * n * B + STEPS[k] * (v * B + b) + LANES[k].
N_NUMBERS = len(NUMBER_FIELDS)
NUMBERS_BEFORE = [sum(draw.n for draw in NUMBERS[:i]) for i in range(len(NUMBERS))]  # first number of each tensor
STARTS = np.array([before for draw, before in zip(NUMBERS, NUMBERS_BEFORE, strict=True) for _ in range(draw.n)])
STEPS = np.array([draw.n for draw in NUMBERS for _ in range(draw.n)])
LANES = np.array([i for draw in NUMBERS for i in range(draw.n)])


class GroupLaw(NamedTuple):
    """The distributions of the n crops of one size; every array has one row per crop.

    Attributes:
        size: Side of the crops, pixels.
        interpolation: "bilinear" or "bicubic".
        resize: (n,) int64, short side of the resized image for centre crops; 0 for random crops.
        boxes: (n, 6) float64: low end and span of the scale, low end and span of the log ratio, both ends of the ratio.
        flags: (n, number of flags) float64, probabilities.
        numbers: (n, number of numbers, 2) float64, shift and scale.
    """

    size: int
    interpolation: str
    resize: np.ndarray
    boxes: np.ndarray
    flags: np.ndarray
    numbers: np.ndarray


def laws_of(specs: Sequence[tuple[CropSpec | CentreSpec, Setting]]) -> tuple[GroupLaw, ...]:
    """Return one law per group. Neighbouring specs of the same size and interpolation share a group."""
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
    # torch's logarithm: math.log can differ in the last bit, which would change the boxes of existing seeds
    low, high = torch.tensor(spec.ratio, dtype=torch.float64).log().tolist()
    return [spec.scale[0], spec.scale[1] - spec.scale[0], low, high - low, *spec.ratio]
