"""Keyed random numbers: a draw is a pure function of (seed, epoch, sample index, crop, field).

SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) in int64 arithmetic that wraps, so bits are the same on every device.
"""

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


def _signed(word: int) -> int:
    """The low 64 bits of a Python integer as a signed one, which is what torch takes."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)
