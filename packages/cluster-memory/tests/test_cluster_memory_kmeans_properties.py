"""Properties of k-means on any data: clusters in range, none empty, falling inertia, one result for one seed."""

import pytest
import torch
from cluster_memory import KMeans
from hypothesis import given, settings
from hypothesis import strategies as st

METRICS = ["euclidean", "cosine"]


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Few rows, with copies of rows, constant columns, huge, tiny or half-precision numbers."""
    n, dim = draw(st.integers(1, 60)), draw(st.integers(1, 5))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.randn(n, dim, generator=g)
    if draw(st.booleans()):
        x = x[torch.randint(0, n, (n,), generator=g)]
    if draw(st.booleans()):
        x[:, draw(st.integers(0, dim - 1))] = draw(st.sampled_from([0.0, 1.0, -3e4]))
    scale = draw(st.sampled_from([1.0, 1e30, 1e-30]))
    return draw(st.sampled_from([x.half(), x.bfloat16(), x * scale, x.double() * scale]))


@settings(deadline=None, max_examples=150)
@given(matrices(), st.integers(1, 12), st.sampled_from(METRICS), st.integers(0, 8), st.integers(0, 100))
def test_ids_counts_inertia_and_seed(x: torch.Tensor, k: int, metric: str, n_iters: int, seed: int) -> None:
    if len(x) < k:
        with pytest.raises(ValueError, match="use k <="):
            KMeans(k, metric).fit(x)
        return
    kmeans = KMeans(k, metric, n_iters=n_iters, seed=seed)
    result = kmeans.fit(x)
    assert ((result.assignments_ >= 0) & (result.assignments_ < k)).all()
    assert torch.equal(result.counts_, torch.bincount(result.assignments_, minlength=k))
    assert result.centroids_.isfinite().all()
    assert len(result.inertia_per_iter_) - result.n_iters_ in (0, 1)
    assert result.n_iters_ <= n_iters
    again = KMeans(k, metric, n_iters=n_iters, seed=seed).fit(x)
    fitted = [name for name in vars(result) if name.endswith("_")]
    assert len(fitted) == 9
    for name in fitted:
        value, other = getattr(result, name), getattr(again, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    elsewhere = torch.randn(20, x.shape[1], generator=torch.Generator().manual_seed(1))
    assert ((kmeans.predict(elsewhere) >= 0) & (kmeans.predict(elsewhere) < k)).all()
    spread = rounding(x, metric)
    for before, after in zip(result.inertia_per_iter_, [*result.inertia_per_iter_[1:], result.inertia_], strict=False):
        assert after <= before * (1 + 1e-5) + spread


def rounding(x: torch.Tensor, metric: str) -> float:
    """What float32 cannot resolve in the inertia of x."""
    x = x.double()
    return 1e-5 * (len(x) if metric == "cosine" else float((x - x.mean(0)).square().sum() + x.abs().max().square()))


@pytest.mark.parametrize("metric", METRICS)
def test_permuted_samples_permute_assignments(metric: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 7, generator=g)
    order = torch.randperm(400, generator=g)
    one = KMeans(15, metric, init=x[:15], n_iters=8).fit(x)
    other = KMeans(15, metric, init=x[:15], n_iters=8).fit(x[order])
    assert torch.equal(other.assignments_, one.assignments_[order])
    torch.testing.assert_close(other.centroids_, one.centroids_)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_duplicates_and_constant_columns(metric: str, init: str) -> None:
    """Seven distinct rows, many copies of each, and a constant column: seven clusters, one for each row."""
    g = torch.Generator().manual_seed(0)
    distinct = torch.cat([torch.randn(7, 4, generator=g), torch.ones(7, 1)], 1)
    which = torch.cat([torch.arange(7), torch.randint(0, 7, (500,), generator=g)])
    result = KMeans(7, metric, init=init, n_iters=50).fit(distinct[which])
    assert result.counts_.min() > 0
    assert result.inertia_ == pytest.approx(0, abs=1e-3)
    assert len(torch.unique(torch.stack([which, result.assignments_]), dim=1).T) == 7
    same = KMeans(3, metric, init=init).fit(torch.ones(10, 2))
    assert same.counts_.sum() == 10
    assert same.inertia_ == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_one_column(dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1, 2, 100, 101, 102, 200, 201, 202]).to(dtype)[:, None]
    result = KMeans(3, init="k-means++").fit(x)
    assert torch.equal(result.centroids_.sort(0).values, torch.tensor([[1.0], [101.0], [201.0]]))
    assert result.inertia_ == pytest.approx(6)


@pytest.mark.parametrize("metric", METRICS)
def test_five_points_at_1e30(metric: str) -> None:
    x = 1e30 * torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    result = KMeans(3, metric, init="k-means++").fit(x)
    assert sorted(result.counts_.tolist()) == [1, 2, 2]
    assert result.centroids_.isfinite().all()
    expected = 2 * 2 * 0.05**2 * 1e60
    assert result.inertia_ == (
        pytest.approx(expected, rel=1e-4) if metric == "euclidean" else pytest.approx(5e-3, rel=0.02)
    )


def iterations(result: KMeans) -> tuple[int, int]:
    return result.n_iters_, len(result.inertia_per_iter_)


def test_n_iters_counts_updates() -> None:
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert iterations(KMeans(2, init=x[[0, 2]], n_iters=0).fit(x)) == (0, 0)
    assert iterations(KMeans(2, init=x[[0, 2]], n_iters=1).fit(x)) == (1, 1)
    assert iterations(KMeans(2, init=x[[0, 2]], n_iters=9).fit(x)) == (1, 2)  # the second assignment changed nothing


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_transform(metric: str, scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=g) * scale
    x[7] = 0
    kmeans = KMeans(5, metric)
    result = kmeans.fit(x)
    distances = kmeans.transform(x)
    assert torch.equal(KMeans(5, metric).fit_transform(x), distances)
    assert torch.equal(KMeans(5, metric).fit_predict(x), result.assignments_)
    assert distances.shape == (50, 5)
    nearest = distances.argmin(1)
    assert torch.equal(nearest, result.assignments_)
    if metric == "cosine":
        expected = 1 - torch.nn.functional.normalize(x.double() / scale) @ result.centroids_.double().T
        expected[7] = 0
    else:
        expected = torch.cdist(x.double() / scale, result.centroids_.double() / scale) * scale
    torch.testing.assert_close(distances.double() / scale, expected / scale, atol=1e-5, rtol=1e-5)
    with pytest.raises(RuntimeError, match="call fit"):
        KMeans(5).transform(x)
