"""The draw by tensor operations, one equation per line: the oracle of the package's draws, bit for bit.

It shares nothing with the package but the settings of recipes and the form of plans.
"""

import itertools
import math

import torch
from multicrop_aug import CentreSpec, CropGroup, CropSpec, Recipe
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # the odd integer nearest 2^64 / golden ratio, as a signed int64
MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MIX_2 = 0x94D049BB133111EB - (1 << 64)
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
TRIES = 10
PERMUTATIONS = torch.tensor(list(itertools.permutations(range(4))), dtype=torch.uint8)  # (24, 4)


def _shift_right(x: Tensor, n_bits: int) -> Tensor:
    # torch's >> copies the sign bit; a logical shift has to mask it off
    return (x >> n_bits) & ((1 << (64 - n_bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def _signed(word: int) -> int:
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


def stream_keys(seed: int, epoch: int, indices: Tensor, crops: Tensor) -> Tensor:
    """(n, B) int64, one stream per (crop, sample); indices (B,) and crops (n,) int64."""
    key = torch.zeros((), dtype=torch.int64)
    for word in (_signed(seed), _signed(epoch), indices[None, :], crops[:, None]):
        key = _mix((key + GAMMA) ^ word)
    return key


def uniform(keys: Tensor, fields: Tensor) -> Tensor:
    """Float64 in [0, 1): element number `fields` of each stream."""
    return _shift_right(_mix(keys + (fields + 1) * GAMMA), 11).double() * 2.0**-53


def exp(x: Tensor) -> Tensor:
    """e^x from sums and products: x = k ln 2 + r, a Taylor series of r, times 2^k."""
    k = (x * (1 / math.log(2))).round()
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    series = torch.full_like(r, 1 / math.factorial(13))
    for i in range(12, -1, -1):
        series = series * r + 1 / math.factorial(i)
    return series * ((k.long() + 1023) << 52).view(torch.float64)


def random_boxes(spec: CropSpec, keys: Tensor, sizes: Tensor) -> Tensor:
    """(n, B, 4) int32: torchvision's get_params for streams (n, B) and sizes (B, 2)."""
    tries = torch.arange(TRIES)[:, None, None]
    height, width = sizes.double().unbind(-1)  # (B,)
    low, high = torch.tensor(spec.ratio, dtype=torch.float64).log().tolist()
    area = height * width * (spec.scale[0] + (spec.scale[1] - spec.scale[0]) * uniform(keys, tries))
    aspect = exp(low + (high - low) * uniform(keys, tries + TRIES))
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (tries, n, B), half to even
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)

    first = fits.byte().argmax(0, keepdim=True)  # (1, n, B)
    h, w = h.gather(0, first)[0], w.gather(0, first)[0]
    top = ((height - h + 1) * uniform(keys, first[0] + 2 * TRIES)).floor()
    left = ((width - w + 1) * uniform(keys, first[0] + 3 * TRIES)).floor()

    whole_h = torch.where(width / height < spec.ratio[0], (width / spec.ratio[0]).round().clamp(min=1), height)
    whole_w = torch.where(width / height > spec.ratio[1], (height * spec.ratio[1]).round().clamp(min=1), width)
    central = torch.stack(((height - whole_h).div(2).floor(), (width - whole_w).div(2).floor(), whole_h, whole_w), -1)
    return torch.where(fits.any(0)[..., None], torch.stack((top, left, h, w), -1), central).int()


def place(spec: CropSpec | CentreSpec, keys: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Box (n, B, 4), resized (n, B, 2) and offset (n, B, 2), int32."""
    if isinstance(spec, CropSpec):
        box = random_boxes(spec, keys, sizes)
        resized = torch.full_like(box[..., :2], spec.size)
        return box, resized, torch.zeros_like(resized)
    resized = spec.resize * sizes // sizes.amin(-1, keepdim=True)
    offset = ((resized - spec.size) / 2).round()  # half to even, as Python's round
    box = torch.cat((torch.zeros_like(sizes), sizes), -1)
    box, resized, offset = (t.int().expand(*keys.shape, -1).contiguous() for t in (box, resized, offset))
    return box, resized, offset


def draw_group(recipe: Recipe, spec: CropSpec | CentreSpec, keys: Tensor, sizes: Tensor) -> CropGroup:
    """The crops of one spec, for streams (n, B)."""
    box, resized, offset = place(spec, keys, sizes)
    drawn = uniform(keys[..., None], torch.arange(40, 52)).unbind(-1)
    flip, angle, jitter, *factors, order, grey, blur, sigma, solarise = drawn
    own_jitter, own_blur = recipe.setting(spec, "jitter"), recipe.setting(spec, "blur")
    factors = [low + (high - low) * u for (low, high), u in zip(own_jitter.ranges(), factors, strict=True)]
    sigma_low, sigma_high = own_blur.sigma
    return CropGroup(
        size=spec.size,
        box=box,
        resized=resized,
        offset=offset,
        flip=flip < recipe.setting(spec, "flip"),
        angle=(recipe.rotation_degrees * (2 * angle - 1)).float(),
        jitter=jitter < own_jitter.p,
        factors=torch.stack(factors, -1).float(),
        jitter_order=PERMUTATIONS[(24 * order).long()],
        grey=grey < recipe.setting(spec, "grey"),
        blur=blur < own_blur.p,
        sigma=(sigma_low + (sigma_high - sigma_low) * sigma).float(),
        solarise=solarise < recipe.setting(spec, "solarise"),
        interpolation=spec.interpolation,
    )


def joined(first: CropGroup, second: CropGroup) -> CropGroup:
    """The crops of two groups of one size and interpolation."""
    more = second.tensors()
    tensors = {name: torch.cat((tensor, more[name])) for name, tensor in first.tensors().items()}
    return CropGroup(size=first.size, interpolation=first.interpolation, **tensors)


def draw_groups(recipe: Recipe, indices: Tensor, epoch: int, sizes: Tensor, seed: int) -> tuple[CropGroup, ...]:
    """`Recipe.draw(...).groups` for (B,) indices and (B, 2) sizes."""
    groups: list[CropGroup] = []
    first = 0
    for spec in recipe.specs:
        crops = torch.arange(first, first + spec.n_crops)
        group = draw_group(recipe, spec, stream_keys(seed, epoch, indices, crops), sizes)
        if groups and (groups[-1].size, groups[-1].interpolation) == (group.size, group.interpolation):
            groups[-1] = joined(groups[-1], group)
        else:
            groups.append(group)
        first += spec.n_crops
    return tuple(groups)
