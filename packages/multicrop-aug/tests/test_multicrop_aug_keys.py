import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from multicrop_aug._keys import exp, stream_keys, uniform

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


words = st.integers(-(2**63), 2**64 - 1)
signed = st.integers(-(2**63), 2**63 - 1)


@given(seed=words, epoch=words, index=signed, crop=st.integers(0, 1000), field=st.integers(0, 100))
def test_uniform_equals_splitmix64_in_python(seed: int, epoch: int, index: int, crop: int, field: int) -> None:
    keys = stream_keys(seed, epoch, torch.tensor([index]), torch.tensor([crop]))
    assert uniform(keys, torch.tensor(field)).item() == oracle(seed, epoch, index, crop, field)


def test_splitmix64_reference_stream() -> None:
    # the published generator started at 1234567 gives this first word (Vigna's splitmix64.c)
    first = mix((1234567 + _GAMMA) & _MASK)
    assert first == 6457827717110365317
    assert uniform(torch.tensor([1234567]), torch.tensor(0)).item() == (first >> 11) / 2**53


def test_neighbouring_keys_share_no_stream_and_look_independent() -> None:
    keys = stream_keys(0, 0, torch.arange(5000), torch.arange(8))
    assert keys.unique().numel() == keys.numel()
    u = uniform(keys, torch.tensor(0))
    assert u.min() >= 0
    assert u.max() < 1
    rows = [u[0], u[1], uniform(keys[0], torch.tensor(1)), u[0].roll(1)]
    rows += [
        uniform(stream_keys(s, e, torch.arange(5000), torch.arange(1))[0], torch.tensor(0)) for s, e in [(1, 0), (0, 1)]
    ]
    correlation = torch.corrcoef(torch.stack(rows)) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.06  # four standard deviations of 5,000 samples


@pytest.mark.parametrize("value", [0, -1, 2**63, 2**64])
def test_any_integer_is_a_seed(value: int) -> None:
    assert stream_keys(value, 0, torch.arange(2), torch.arange(1)).shape == (1, 2)


@given(x=st.floats(-700, 700))
def test_exp_is_within_two_ulps(x: float) -> None:
    mine, theirs = exp(torch.tensor([x], dtype=torch.float64)).item(), math.exp(x)
    assert abs(mine - theirs) <= 2 * math.ulp(theirs)


def test_exp_never_changes_a_bit() -> None:
    x = torch.tensor([-0.2876820724517809, -0.1, 0.0, 0.05, 0.2876820724517809, 1.0], dtype=torch.float64)
    assert [value.hex() for value in exp(x).tolist()] == GOLDEN_EXP


def test_exp_of_a_part_is_the_part_of_exp() -> None:
    # vectorised and remaining elements of a loop may be computed by different instructions: they must agree
    x = torch.linspace(-0.3, 0.3, 1003, dtype=torch.float64)
    assert torch.equal(exp(x)[5:38:3], exp(x[5:38:3]))
    assert torch.equal(exp(x)[-1:], exp(x[-1:].clone()))
