"""`Recipe.draw` in machine code: the same plan, bit for bit.

Drawn with tensors, the eight crops of one image are some two hundred small operations, which take longer than to render
them, and a batch of 512 small images takes a fifth of its rendering; here a crop takes less than a microsecond.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._cpu_jit import jit_exact, package_digest
from ._keys import _GAMMA, _LN2_HIGH, _LN2_LOW, _MIX_1, _MIX_2, _TAYLOR
from ._plan import CropGroup
from ._recipe import _FIRST_FIELD, _PERMUTATIONS, Recipe
from ._specs import _TRIES, CentreSpec, CropSpec

U = np.uint64
_WORD = 1 << 64
GAMMA, MIX_1, MIX_2 = U(_GAMMA % _WORD), U(_MIX_1 % _WORD), U(_MIX_2 % _WORD)
TAYLOR, PER_LN2, LN2_HIGH, LN2_LOW = np.array(_TAYLOR), 1 / math.log(2), _LN2_HIGH, _LN2_LOW
PERMUTATIONS, TRIES, FIRST_FIELD = _PERMUTATIONS.numpy(), _TRIES, _FIRST_FIELD

# the tensors of a CropGroup, in its order: (dimensions after (n, B), dtype)
_FIELDS = {
    "box": ([4], np.int32), "resized": ([2], np.int32), "offset": ([2], np.int32), "flip": ([], np.bool_),
    "angle": ([], np.float32), "jitter": ([], np.bool_), "factors": ([4], np.float32), "jitter_order": ([4], np.uint8),
    "grey": ([], np.bool_), "blur": ([], np.bool_), "sigma": ([], np.float32), "solarise": ([], np.bool_),
}  # fmt: skip


def draw_groups(recipe: Recipe, indices: Tensor, epoch: int, sizes: Tensor, seed: int) -> tuple[CropGroup, ...]:
    """As `Recipe._draw_groups`, for (B,) indices and (B, 2) sizes on the CPU that were found right."""
    words = np.array([word % _WORD for word in (seed, epoch)], U)
    samples, extents = indices.contiguous().numpy(), sizes.contiguous().numpy()
    groups = []
    first = 0
    for size, interpolation, resize, boxes, distortions in _laws(recipe):
        shape = len(boxes), len(samples)
        arrays: dict[str, np.ndarray] = {
            name: np.empty((*shape, *last), dtype) for name, (last, dtype) in _FIELDS.items()
        }
        draw_crops(words, samples, first, extents, size, resize, boxes, distortions, *arrays.values())
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        groups.append(CropGroup(size=size, interpolation=interpolation, **tensors))
        first += len(boxes)
    return tuple(groups)


_Law = tuple[int, str, np.ndarray, np.ndarray, np.ndarray]


def _laws(recipe: Recipe) -> list[_Law]:
    try:
        return _kept_laws(recipe)
    except TypeError:  # a recipe with lists in place of tuples has no hash
        return _kept_laws.__wrapped__(recipe)


@lru_cache(maxsize=64)
def _kept_laws(recipe: Recipe) -> list[_Law]:
    """A tuple per group: size, interpolation, and constants with a row a crop.

    Those are resize (n,), of centre crops, 0 for random ones; boxes (n, 6): scale's low end and span, log ratio's low
    end and span, ratio's ends; distortions (n, 16): probability of a flip, degrees, probability of jitter, low end and
    span of its four factors, probability of grey and of blur, sigma's low end and span, probability of solarising.
    """
    groups: list[tuple[int, str, list[int], list[list[float]], list[list[float]]]] = []
    for spec in recipe.specs:
        if not groups or groups[-1][:2] != (spec.size, spec.interpolation):
            groups.append((spec.size, spec.interpolation, [], [], []))
        for _ in range(spec.n_crops):
            groups[-1][2].append(spec.resize if isinstance(spec, CentreSpec) else 0)
            groups[-1][3].append(_box_law(spec))
            groups[-1][4].append(_distortion_law(recipe, spec))
    return [
        (size, interpolation, np.array(resize), np.array(boxes), np.array(distortions))
        for size, interpolation, resize, boxes, distortions in groups
    ]


def _box_law(spec: CropSpec | CentreSpec) -> list[float]:
    if isinstance(spec, CentreSpec):
        return [0.0] * 6
    low, high = torch.tensor(spec.ratio, dtype=torch.float64).log().tolist()
    return [spec.scale[0], spec.scale[1] - spec.scale[0], low, high - low, *spec.ratio]


def _distortion_law(recipe: Recipe, spec: CropSpec | CentreSpec) -> list[float]:
    flip, jitter, grey, blur, solarise = (
        recipe.setting(spec, name) for name in ("flip", "jitter", "grey", "blur", "solarise")
    )
    factors = [value for low, high in jitter.ranges() for value in (low, high - low)]
    sigma_low, sigma_high = blur.sigma
    sigma = [sigma_low, sigma_high - sigma_low]
    return [flip, recipe.rotation_degrees, jitter.p, *factors, grey, blur.p, *sigma, solarise]


@jit_exact
def mix(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser; see _keys."""
    x = (x ^ (x >> U(30))) * MIX_1
    x = (x ^ (x >> U(27))) * MIX_2
    return x ^ (x >> U(31))


@jit_exact
def uniform(key, field):  # type: ignore[no-untyped-def]
    """_keys.uniform."""
    return np.float64(mix(key + U(field + 1) * GAMMA) >> U(11)) * 2.0**-53


@jit_exact
def exp(x):  # type: ignore[no-untyped-def]
    """_keys.exp; ldexp's product with a power of two is exact."""
    k = np.rint(x * PER_LN2)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    series = TAYLOR[0]
    for i in range(1, len(TAYLOR)):
        series = series * r + TAYLOR[i]
    return math.ldexp(series, int(k))


@jit_exact
def random_box(key, height, width, law):  # type: ignore[no-untyped-def]
    """CropSpec.place."""
    scale, scale_span, log_ratio, log_ratio_span, lowest, highest = law
    for t in range(TRIES):
        area = height * width * (scale + scale_span * uniform(key, t))
        aspect = exp(log_ratio + log_ratio_span * uniform(key, TRIES + t))
        w, h = np.rint(math.sqrt(area * aspect)), np.rint(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = math.floor((height - h + 1) * uniform(key, 2 * TRIES + t))
            left = math.floor((width - w + 1) * uniform(key, 3 * TRIES + t))
            return top, left, h, w
    h = max(np.rint(width / lowest), 1.0) if width / height < lowest else height
    w = max(np.rint(height * highest), 1.0) if width / height > highest else width
    return math.floor((height - h) / 2), math.floor((width - w) / 2), h, w


def _compiled(version: str) -> Callable[..., Any]:
    @jit_exact
    def draw_crops(  # type: ignore[no-untyped-def]
        words, samples, first, sizes, size, resize, boxes, distortions,
        box, resized, offset, flip, angle, jitter, factors, jitter_order, grey, blur, sigma, solarise,
    ):  # fmt: skip
        """Crops from number `first` on of some images into the arrays of a group; words: seed and epoch."""
        _ = version  # in the closure: see package_digest
        key = U(0)
        for word in words:
            key = mix((key + GAMMA) ^ word)
        epoch_key = key
        for b in range(len(samples)):
            sample_key, height, width = mix((epoch_key + GAMMA) ^ U(samples[b])), sizes[b, 0], sizes[b, 1]
            for v in range(len(boxes)):
                key = mix((sample_key + GAMMA) ^ U(first + v))
                if resize[v]:
                    box[v, b] = 0, 0, height, width
                    short = min(height, width)
                    resized[v, b] = resize[v] * height // short, resize[v] * width // short
                    for axis in range(2):
                        offset[v, b, axis] = int(np.rint((resized[v, b, axis] - size) / 2))
                else:
                    top, left, h, w = random_box(key, float(height), float(width), boxes[v])
                    box[v, b] = int(top), int(left), int(h), int(w)
                    resized[v, b], offset[v, b] = size, 0
                law, field = distortions[v], FIRST_FIELD
                flip[v, b] = uniform(key, field) < law[0]
                angle[v, b] = law[1] * (2 * uniform(key, field + 1) - 1)
                jitter[v, b] = uniform(key, field + 2) < law[2]
                for i in range(4):
                    factors[v, b, i] = law[3 + 2 * i] + law[4 + 2 * i] * uniform(key, field + 3 + i)
                jitter_order[v, b] = PERMUTATIONS[int(24 * uniform(key, field + 7))]
                grey[v, b] = uniform(key, field + 8) < law[11]
                blur[v, b] = uniform(key, field + 9) < law[12]
                sigma[v, b] = law[13] + law[14] * uniform(key, field + 10)
                solarise[v, b] = uniform(key, field + 11) < law[15]

    return draw_crops


draw_crops = _compiled(package_digest())
