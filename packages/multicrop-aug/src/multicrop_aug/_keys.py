"""Keyed random numbers: a draw is a pure function of (seed, epoch, sample index, crop, field).

SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) in int64 arithmetic that wraps, so bits are the same on every device. What
is computed from the numbers keeps to operations that IEEE 754 rounds one way: + - * / and square roots; hence `exp`.
"""

import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # the odd integer nearest 2^64 / golden ratio, as a signed int64
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, n_bits: int) -> Tensor:
    # torch's >> copies the sign bit; a logical shift has to mask it off
    return (x >> n_bits) & ((1 << (64 - n_bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def stream_keys(seed: int, epoch: int, indices: Tensor, crops: Tensor) -> Tensor:
    """One 64-bit stream per (sample, crop).

    indices: (B,) int64. crops: (n,) int64 crop numbers. Returns (n, B) int64 on the device of `indices`.
    Distinct (sample, crop) pairs of a sample, or of a crop, never share a stream: each step is a bijection of its word.
    """
    key = torch.zeros((), dtype=torch.int64, device=indices.device)
    for word in (_signed(seed), _signed(epoch), indices[None, :], crops[:, None]):
        key = _mix((key + _GAMMA) ^ word)
    return key


def uniform(keys: Tensor, fields: Tensor) -> Tensor:
    """Float64 uniforms in [0, 1), multiples of 2^-53: element number `fields` of each stream.

    keys and fields: int64, broadcast against each other.
    """
    bits = _mix(keys + (fields + 1) * _GAMMA)
    return _shift_right(bits, 11).double() * 2.0**-53


_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # 33 bits: times an integer of 20 bits exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_TAYLOR = [1 / math.factorial(i) for i in range(13, -1, -1)]


def exp(x: Tensor) -> Tensor:
    """e^x to about an ulp for float64 x in [-700, 700], from sums and products alone: the same bits on every device.

    x = k ln 2 + r, |r| <= 0.35; e^r by Horner's rule on its series, whose rest is below 2^-57; times 2^k.
    """
    k = (x * (1 / math.log(2))).round()
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    series = torch.full_like(r, _TAYLOR[0])
    for term in _TAYLOR[1:]:
        series = series * r + term
    return series * ((k.long() + 1023) << 52).view(torch.float64)


def _signed(word: int) -> int:
    """The low 64 bits of a Python integer as a signed one, which is what torch takes."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)
