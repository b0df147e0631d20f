"""Keyed random numbers: a draw is a pure function of (seed, epoch, sample index, crop, field).

The generator is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on uint64, whose arithmetic wraps. Numbers are derived
with operations whose rounding IEEE 754 fixes: + - * / and square roots. `exp` is built from these. So every machine
draws the same bits.

Each function is written once and works on numbers in compiled code and on NumPy arrays.
"""

import math

import numpy as np

from ._numba import for_both

U = np.uint64
GAMMA = U(0x9E3779B97F4A7C15)  # the odd integer nearest 2^64 / golden ratio
MIX_1, MIX_2 = U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
SHIFT_1, SHIFT_2, SHIFT_3, SPARE_BITS, ONE = U(30), U(27), U(31), U(11), U(1)

LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # 33 bits, so its product with a 20-bit integer is exact
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
PER_LN2 = 1 / math.log(2)
TAYLOR = np.array([1 / math.factorial(i) for i in range(13, -1, -1)])


@for_both
def mix(x):  # type: ignore[no-untyped-def]
    """Apply SplitMix64's finaliser, a bijection of 64-bit words."""
    x = (x ^ (x >> SHIFT_1)) * MIX_1
    x = (x ^ (x >> SHIFT_2)) * MIX_2
    return x ^ (x >> SHIFT_3)


@for_both
def next_key(key, word):  # type: ignore[no-untyped-def]
    """Return the key of a substream. For one key it is a bijection of the word: distinct words never share a stream."""
    return mix((key + GAMMA) ^ word)


@for_both
def uniform(key, field):  # type: ignore[no-untyped-def]
    """Return element number `field` (uint64) of each stream: float64 in [0, 1), multiples of 2^-53."""
    return (mix(key + (field + ONE) * GAMMA) >> SPARE_BITS) * 2.0**-53


@for_both
def exp(x):  # type: ignore[no-untyped-def]
    """Compute e^x to about one ulp, for float64 x in [-700, 700], from sums and products only.

    With x = k ln 2 + r and |r| <= 0.35, e^r is its Taylor series by Horner's rule, truncated below 2^-57. The product
    with 2^k is exact.
    """
    k = np.rint(x * PER_LN2)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    series = TAYLOR[0] + 0.0 * r
    for i in range(1, len(TAYLOR)):
        series = series * r + TAYLOR[i]
    return np.ldexp(series, np.int32(k))
