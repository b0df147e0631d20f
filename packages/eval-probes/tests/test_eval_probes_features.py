"""extract_features and rankme."""

import numpy as np
import pytest
import torch
from eval_probes import extract_features, rankme
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def batches(labelled: bool = True) -> list[tuple[Tensor, Tensor | None]]:
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 3, 8, 8, generator=g), torch.arange(n) if labelled else None) for n in (4, 4, 1)]


def test_rows_are_the_eval_mode_output_in_order() -> None:
    model, seen = network(), []
    x, labels = extract_features(model, batches(), progress=seen.append)
    with torch.no_grad():
        expected = torch.cat([model.eval()(images) for images, _ in batches()])
    assert torch.equal(x, expected)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert seen == [4, 8, 9]


def test_training_flags_come_back_one_by_one_even_after_an_error() -> None:
    model = network().train()
    model[1].eval()  # a frozen part stays frozen
    flags = [module.training for module in model.modules()]
    before = model[1].running_mean.clone()
    extract_features(model, batches())
    assert [module.training for module in model.modules()] == flags
    with pytest.raises(ValueError, match="pool it"):
        extract_features(nn.Sequential(model, nn.Unflatten(1, (2, 3))), batches())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(before, model[1].running_mean)


def test_a_probe_can_train_on_the_result() -> None:
    x, labels = extract_features(network(), batches()[:1])
    assert not x.requires_grad
    assert labels is not None
    nn.functional.cross_entropy(nn.Linear(6, 4)(x), labels).backward()  # inference tensors would raise here


def test_precision_is_what_is_asked_for() -> None:
    model, plain = network(), batches()
    exact = extract_features(model, plain).x
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extract_features(model, plain).x, exact)
    rough = extract_features(model, plain, precision="bf16").x
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_errors() -> None:
    model = network()
    assert extract_features(model, batches(labelled=False)).labels is None
    with pytest.raises(ValueError, match="empty"):
        extract_features(model, [])
    with pytest.raises(ValueError, match="all or to none"):
        extract_features(model, [batches()[0], batches(labelled=False)[1]])
    with pytest.raises(ValueError, match="all or to none"):
        extract_features(model, [batches(labelled=False)[0], batches()[1]])
    with pytest.raises(ValueError, match="labels must be"):
        extract_features(model, [(torch.zeros(2, 3, 8, 8), torch.zeros(3))])
    with pytest.raises(ValueError, match="precision"):
        extract_features(model, batches(), precision="16")  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 20), seed=st.integers(0, 1000))
def test_rankme_equals_the_singular_values_entropy(n: int, d: int, seed: int) -> None:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    p = np.linalg.svd(x.double().numpy(), compute_uv=False)
    p = p / p.sum()
    assert rankme(x) == pytest.approx(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()), rel=1e-5)


def test_rankme_limits() -> None:
    assert rankme(torch.eye(9, 30)) == pytest.approx(9)
    assert rankme(torch.ones(500, 64)) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.zeros(5, 3)) == 0
    with pytest.raises(ValueError, match="NaN"):
        rankme(torch.full((4, 2), torch.nan))
    with pytest.raises(ValueError, match="matrix"):
        rankme(torch.zeros(3))
