"""Keyed random numbers: a draw is a pure function of (seed, epoch, sample index, crop, field).

SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on uint64, whose arithmetic wraps. What is computed from the numbers keeps
to operations that IEEE 754 rounds one way: + - * / and square roots; hence `exp`. So every machine draws the same bits.

The functions work on numbers in compiled code and on NumPy arrays outside of it: each is written once.
"""

import math

import numpy as np

from ._numba import for_both

U = np.uint64
WORD = 1 << 64  # any integer is a seed: words are taken modulo this
GAMMA = U(0x9E3779B97F4A7C15)  # the odd integer nearest 2^64 / golden ratio
MIX_1, MIX_2 = U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
SHIFT_1, SHIFT_2, SHIFT_3, SPARE_BITS, ONE = U(30), U(27), U(31), U(11), U(1)

LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # 33 bits: times an integer of 20 bits exact
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
PER_LN2 = 1 / math.log(2)
TAYLOR = np.array([1 / math.factorial(i) for i in range(13, -1, -1)])


@for_both
def mix(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    x = (x ^ (x >> SHIFT_1)) * MIX_1
    x = (x ^ (x >> SHIFT_2)) * MIX_2
    return x ^ (x >> SHIFT_3)


@for_both
def next_key(key, word):  # type: ignore[no-untyped-def]
    """The key of a stream of streams; for one key a bijection of the word, so distinct words never share a stream."""
    return mix((key + GAMMA) ^ word)


@for_both
def uniform(key, field):  # type: ignore[no-untyped-def]
    """Float64 uniforms in [0, 1), multiples of 2^-53: element number `field` (uint64) of each stream."""
    return (mix(key + (field + ONE) * GAMMA) >> SPARE_BITS) * 2.0**-53


@for_both
def exp(x):  # type: ignore[no-untyped-def]
    """e^x to about an ulp for float64 x in [-700, 700], from sums and products alone.

    x = k ln 2 + r, |r| <= 0.35; e^r by Horner's rule on its series, whose rest is below 2^-57; times 2^k, exactly.
    """
    k = np.rint(x * PER_LN2)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    series = TAYLOR[0] + 0.0 * r
    for i in range(1, len(TAYLOR)):
        series = series * r + TAYLOR[i]
    return np.ldexp(series, np.int32(k))
