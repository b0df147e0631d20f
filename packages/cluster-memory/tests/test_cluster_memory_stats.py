import math

import pytest
import torch
from cluster_memory import cluster_stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_nmi_and_change_equal_scikit_learn(n: int, k: int, before: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, k, (n,), generator=g), torch.randint(0, before, (n,), generator=g)
    stats = cluster_stats(a, k, b)
    assert stats.nmi == pytest.approx(normalized_mutual_info_score(b.numpy(), a.numpy()), abs=1e-9)
    assert stats.change == pytest.approx(float((a != b).double().mean()))
    of_arrays = cluster_stats(a.int().numpy(), k, b.numpy())
    assert (of_arrays.nmi, of_arrays.change) == (stats.nmi, stats.change)


def test_sizes_and_entropy() -> None:
    stats = cluster_stats(torch.tensor([0, 0, 2, 2, -100]), 4)
    assert stats.sizes.tolist() == [2, 0, 2, 0]
    assert (stats.n_empty, stats.smallest, stats.largest) == (2, 0, 2)
    assert stats.entropy == pytest.approx(math.log(2))
    assert stats.effective_clusters == pytest.approx(2)
    assert stats.change is None
    assert stats.nmi is None


def test_limits() -> None:
    one = torch.zeros(5, dtype=torch.int64)
    assert cluster_stats(one, 1, one).nmi == 1
    assert cluster_stats(torch.arange(5), 5, one).nmi == 0
    assert cluster_stats(torch.arange(5), 5, torch.arange(5).flip(0)).nmi == pytest.approx(1)
    assert cluster_stats(torch.full((5,), -100), 3, one).change == 0


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="must be integers"):
        cluster_stats(torch.zeros(4), 3)
    with pytest.raises(ValueError, match="below k = 3"):
        cluster_stats(torch.arange(4), 3)
    with pytest.raises(ValueError, match=r"must be \(N,\)"):
        cluster_stats(torch.arange(4), 4, torch.arange(5))
