"""alignment and uniformity against their formulas, evaluated pair by pair."""

import math

import pytest
import torch
from eval_probes import alignment, uniformity
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def rows(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 20), d=st.integers(1, 9), t=st.floats(0.1, 5), alpha=st.floats(0.5, 3), seed=st.integers(0, 99))
def test_equal_to_the_formulas(n: int, d: int, t: float, alpha: float, seed: int) -> None:
    z1, z2 = rows(n, d, seed), rows(n, d, seed + 100)
    a, b = ([row / row.norm() for row in z.double()] for z in (z1, z2))
    pairs = [math.exp(-t * float((a[i] - a[j]).square().sum())) for i in range(n) for j in range(i + 1, n)]
    distances = [float((p - q).norm()) ** alpha for p, q in zip(a, b, strict=True)]
    # float32 cosines give squared distances to about 1e-6
    assert uniformity(z1, t) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-5)
    assert alignment(z1, z2, alpha) == pytest.approx(sum(distances) / n, abs=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = rows(50, 4, 0)
    whole = uniformity(z)
    monkeypatch.setattr("eval_probes._uniformity._ROWS", 7)
    assert uniformity(z) == pytest.approx(whole, abs=1e-6)


def test_limits_and_invariance() -> None:
    z = rows(40, 6, 0)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)
    assert alignment(z, 3 * z) == pytest.approx(0, abs=1e-10)
    assert alignment(z, -z) == pytest.approx(4)
    assert uniformity(z.double() * 1e3) == pytest.approx(uniformity(z), abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert uniformity(z) == uniformity(z.flip(0).flip(0))


def test_errors() -> None:
    z = rows(4, 3, 0)
    with pytest.raises(ValueError, match="one shape"):
        alignment(z, z[:3])
    with pytest.raises(ValueError, match="at least 2 rows"):
        uniformity(z[:1])
    z[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"z has 1 rows with NaN or infinity, the first at \[2\]"):
        uniformity(z)
