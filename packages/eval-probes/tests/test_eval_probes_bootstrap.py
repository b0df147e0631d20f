"""Bootstrap intervals: equal to explicit resampling, correct for a known binomial, keyed by the seed."""

import math

import pytest
import torch
from eval_probes import bootstrap_interval, mean_average_precision


def test_accuracy_agrees_with_the_binomial() -> None:
    right = torch.arange(1000) < 700
    low, high = bootstrap_interval(right, n_resamples=4000)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(0.7 - half, abs=0.003)
    assert high == pytest.approx(0.7 + half, abs=0.003)


def test_mean_ap_equals_redrawing_in_full() -> None:
    """The test repeats the resamples from the same generator and evaluates each one in full."""
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(40, 3, generator=g), torch.randint(-1, 2, (40, 3), generator=g)
    labels[:, 2] = 0
    labels[5, 2] = 1  # absent from about a third of the resamples
    generator = torch.Generator().manual_seed(7)
    drawn = torch.cat([torch.randint(40, (n, 40), generator=generator) for n in (50, 10)])
    means = torch.tensor([mean_average_precision(scores[i], labels[i]).mean_ap for i in drawn], dtype=torch.float64)
    expected = means.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    assert bootstrap_interval(scores, labels, level=0.9, n_resamples=60, seed=7) == pytest.approx(expected, abs=1e-12)


def test_nothing_to_rank_is_nan() -> None:
    low, high = bootstrap_interval(torch.zeros(4, 2), torch.zeros(4, 2).long())
    assert math.isnan(low)
    assert math.isnan(high)


def test_keyed_by_seed_and_no_global_generator() -> None:
    right = torch.rand(50, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first = bootstrap_interval(right, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bootstrap_interval(right, seed=1) == first
    assert bootstrap_interval(right, seed=2) != first


def test_errors() -> None:
    with pytest.raises(ValueError, match="with labels"):
        bootstrap_interval(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(torch.zeros(3), level=95)
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_interval(torch.zeros(0))
