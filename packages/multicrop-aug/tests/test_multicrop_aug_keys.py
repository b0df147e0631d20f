"""The keyed generator as NumPy runs it, against Python's integers and its published stream."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicrop_aug._keys import exp, next_key, uniform

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
GOLDEN_EXP = [
    "0x1.8000000000000p-1",
    "0x1.cf46d99d52b3ap-1",
    "0x1.0000000000000p+0",
    "0x1.0d201a422a433p+0",
    "0x1.5555555555555p+0",
    "0x1.5bf0a8b14576ap+1",
]


def mix(x: int) -> int:
    """SplitMix64's finaliser in Python's unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def oracle(seed: int, epoch: int, index: int, crop: int, field: int) -> float:
    key = 0
    for word in (seed, epoch, index, crop):
        key = mix(((key + _GAMMA) & _MASK) ^ (word & _MASK))
    return (mix((key + (field + 1) * _GAMMA) & _MASK) >> 11) / 2**53


def stream_keys(seed: int, epoch: int, indices: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """(n, B) uint64 for (B,) indices and (n,) crops."""
    key = np.zeros((1, 1), np.uint64)
    for word in (*(np.array([w & _MASK], np.uint64) for w in (seed, epoch)), indices, crops[:, None]):
        key = next_key(key, word.astype(np.uint64))
    return key


def field(number: int) -> np.ndarray:
    return np.array([number], np.uint64)


words = st.integers(-(2**63), 2**64 - 1)
signed = st.integers(-(2**63), 2**63 - 1)


@given(seed=words, epoch=words, index=signed, crop=st.integers(0, 1000), number=st.integers(0, 100))
def test_uniform_equals_splitmix64_in_python(seed: int, epoch: int, index: int, crop: int, number: int) -> None:
    keys = stream_keys(seed, epoch, np.array([index]), np.array([crop]))
    assert uniform(keys, field(number)).item() == oracle(seed, epoch, index, crop, number)


def test_splitmix64_reference_stream() -> None:
    # the published generator started at 1234567 gives this first word (Vigna's splitmix64.c)
    first = mix((1234567 + _GAMMA) & _MASK)
    assert first == 6457827717110365317
    assert uniform(field(1234567), field(0)).item() == (first >> 11) / 2**53


def test_neighbouring_keys_share_no_stream_and_look_independent() -> None:
    samples, one = np.arange(5000), np.arange(1)
    keys = stream_keys(0, 0, samples, np.arange(8))
    assert len(np.unique(keys)) == keys.size
    u = uniform(keys, field(0))
    assert u.min() >= 0
    assert u.max() < 1
    rows = [u[0], u[1], uniform(keys[0], field(1)), np.roll(u[0], 1)]
    rows += [uniform(stream_keys(s, e, samples, one)[0], field(0)) for s, e in [(1, 0), (0, 1)]]
    correlation = np.corrcoef(np.stack(rows)) - np.eye(len(rows))
    assert np.abs(correlation).max() < 0.06  # four standard deviations of 5,000 samples


@pytest.mark.parametrize("value", [0, -1, 2**63, 2**64])
def test_any_integer_is_a_seed(value: int) -> None:
    assert stream_keys(value, 0, np.arange(2), np.arange(1)).shape == (1, 2)


@given(x=st.floats(-700, 700))
def test_exp_is_within_two_ulps(x: float) -> None:
    mine, theirs = exp(np.array([x])).item(), math.exp(x)
    assert abs(mine - theirs) <= 2 * math.ulp(theirs)


def test_exp_never_changes_a_bit() -> None:
    x = np.array([-0.2876820724517809, -0.1, 0.0, 0.05, 0.2876820724517809, 1.0])
    assert [value.hex() for value in exp(x).tolist()] == GOLDEN_EXP


def test_exp_of_a_part_is_the_part_of_exp() -> None:
    # vectorised and remaining elements of a loop may be computed by different instructions: they must agree
    x = np.linspace(-0.3, 0.3, 1003)
    assert np.array_equal(exp(x)[5:38:3], exp(x[5:38:3]))
    assert np.array_equal(exp(x)[-1:], exp(x[-1:].copy()))
