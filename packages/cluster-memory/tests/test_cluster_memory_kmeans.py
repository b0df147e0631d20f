import numpy as np
import pytest
import torch
from cluster_memory import KMeans, NotFinite, _kmeans
from cluster_memory._nearest import first_argmin
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans


def blobs(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(7, dim, generator=g) * 3
    return centres[torch.randint(0, 7, (n,), generator=g)] + torch.randn(n, dim, generator=g)


def squared_distances(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return (x.double()[:, None] - c.double()).square().sum(2)


def naive_lloyd(x: np.ndarray, c: np.ndarray, n_iters: int, cosine: bool) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Lloyd's loop in float64; empty clusters keep their centroid."""
    x, c = x.astype(np.float64), c.astype(np.float64)
    if cosine:
        x, c = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, c))
    inertia = []
    for i in range(n_iters + 1):
        labels = np.empty(len(x), dtype=np.int64)
        total = 0.0
        for n, row in enumerate(x):
            distances = [1 - row @ ck if cosine else ((row - ck) ** 2).sum() for ck in c]
            labels[n] = int(np.argmin(distances))
            total += distances[labels[n]]
        inertia.append(total)
        if i == n_iters:
            return c, labels, inertia
        for k in range(len(c)):
            if (labels == k).any():
                c[k] = x[labels == k].mean(0)
                if cosine:
                    c[k] /= np.linalg.norm(c[k])
    raise AssertionError


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equals_the_naive_loop(metric: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kmeans, "_BLOCK_BYTES", 4000)  # many blocks, the last one short
    x = blobs(150, 5).to(dtype)
    start = x[:9].float()
    result = KMeans(9, metric, n_iters=4, init=start, empty="keep").fit(x)
    centroids, labels, inertia = naive_lloyd(x.double().numpy(), start.numpy(), 4, metric == "cosine")
    assert (result.assignments.numpy() == labels).all()
    torch.testing.assert_close(result.centroids, torch.from_numpy(centroids).float())
    np.testing.assert_allclose([*result.inertia_per_iter, result.inertia], inertia, rtol=1e-5)
    assert (result.counts.numpy() == np.bincount(labels, minlength=9)).all()


def test_converges_where_scikit_learn_does() -> None:
    x = blobs(500, 8)
    ours = KMeans(7, n_iters=100, init=x[:7]).fit(x)
    theirs = SklearnKMeans(7, init=x[:7].numpy(), n_init=1, max_iter=100, tol=0).fit(x.numpy())
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)
    assert (ours.assignments.numpy() == theirs.labels_).all()
    assert len(ours.inertia_per_iter) < 100  # it stops when nothing changes


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_result_is_one_piece(metric: str, init: str) -> None:
    x = blobs(1200, 16)
    kmeans = KMeans(60, metric, n_iters=7, init=init, seed=3)
    result = kmeans.fit(x)
    assert all(a >= b for a, b in zip(result.inertia_per_iter, result.inertia_per_iter[1:], strict=False))
    assert result.counts.sum() == 1200
    assert result.counts.min() > 0
    assert (kmeans.predict(x) == result.assignments).all()
    again = KMeans(60, metric, n_iters=7, init=init, seed=3).fit(x)
    assert torch.equal(again.centroids, result.centroids)
    assert torch.equal(again.assignments, result.assignments)
    assert KMeans(60, metric, n_iters=7, init=init, seed=4).fit(x).inertia != result.inertia
    if metric == "cosine":
        torch.testing.assert_close(result.centroids.norm(dim=1), torch.ones(60))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 6),
    st.sampled_from(["euclidean", "cosine"]),
    st.sampled_from(["random", "k-means++"]),
    st.integers(0, 10**6),
)
def test_no_empty_cluster_wherever_k_rows_differ(
    n: int, dim: int, k: int, values: int, n_iters: int, metric: str, init: str, seed: int
) -> None:
    """Few integer values make many equal rows; the assignment must still be the arg min for the centroids returned."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, values + 1, (n, dim), generator=g).float()
    x[: n // 2] = x[0].clone()
    if metric == "cosine":
        unit = torch.nn.functional.normalize(x.double(), dim=1)
        distinct = len(torch.unique(unit[unit.any(1)].round(decimals=6), dim=0))
    else:
        unit = x
        distinct = len(torch.unique(x, dim=0))
    if n < k:
        with pytest.raises(ValueError, match="use k <="):
            KMeans(k, metric, init=init).fit(x)
        return
    result = KMeans(k, metric, n_iters=n_iters, init=init, seed=seed).fit(x)
    assert result.centroids.isfinite().all()
    assert result.assignments.min() >= 0
    assert result.assignments.max() < k
    assert (result.counts == torch.bincount(result.assignments, minlength=k)).all()
    if distinct >= k:
        assert result.counts.min() > 0
    else:
        assert (result.counts > 0).sum() >= min(distinct, 1)
    if metric == "cosine":
        distances = 1 - unit @ result.centroids.double().T
        distances[~unit.any(1)] = 0  # no direction, no distance
    else:
        distances = squared_distances(unit, result.centroids)
    own = distances[torch.arange(n), result.assignments]
    torch.testing.assert_close(own, distances.min(1).values, atol=1e-4, rtol=1e-5)
    assert result.inertia == pytest.approx(float(own.sum()), rel=1e-4, abs=1e-4)


def test_repair_fills_half_empty_clusters() -> None:
    """All centroids start on one spot, so all but one begin empty."""
    x = blobs(1000, 8)
    result = KMeans(50, init=x[:1].expand(50, -1).contiguous(), n_iters=10).fit(x)
    assert result.counts.min() > 0
    assert result.n_repaired > 30  # the others found members by themselves
    kept = KMeans(50, init=x[:1].expand(50, -1).contiguous(), n_iters=0, empty="keep").fit(x)
    assert (kept.counts > 0).sum() == 1
    assert kept.n_repaired == 0
    zero_iters = KMeans(50, init=x[:1].expand(50, -1).contiguous(), n_iters=0).fit(x)
    assert zero_iters.counts.min() > 0
    assert zero_iters.n_repaired == 49


def test_rows_closer_than_rounding_still_fill_all_clusters() -> None:
    """Distances here are far below what the matrix product resolves, so only the owned rows keep clusters filled."""
    x = torch.cat([torch.linspace(0, 1e-3, 20), torch.tensor([1000.0])])[:, None]
    for seed in range(5):
        assert (KMeans(21, init="random", n_iters=3, seed=seed).fit(x).counts == 1).all()


def test_memory_map_and_array_equal_tensor(tmp_path: object) -> None:
    x = blobs(700, 6)
    mapped = np.memmap(f"{tmp_path}/x.f16", dtype=np.float16, mode="w+", shape=(700, 6))
    mapped[:] = x.half().numpy()
    readonly = np.memmap(f"{tmp_path}/x.f16", dtype=np.float16, mode="r", shape=(700, 6))
    results = [KMeans(20).fit(a) for a in (readonly, np.asarray(readonly), x.half(), x.half().double())]
    assert all(torch.equal(results[0].assignments, r.assignments) for r in results)
    assert all(torch.equal(results[0].centroids, r.centroids) for r in results)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(metric: str, scale: float) -> None:
    x = blobs(400, 6)
    one, other = KMeans(10, metric).fit(x), KMeans(10, metric).fit(x * scale)
    assert (one.assignments == other.assignments).float().mean() > 0.99
    assert other.centroids.isfinite().all()
    expected = one.inertia if metric == "cosine" else one.inertia * scale**2
    assert other.inertia == pytest.approx(expected, rel=1e-2)


def test_far_from_the_origin() -> None:
    """|c|^2 - 2 x.c alone would lose these clusters: 1e8 swallows differences of 1."""
    x = blobs(600, 4) + 1e4
    result = KMeans(20).fit(x)
    distances = squared_distances(x, result.centroids)
    own = distances[torch.arange(600), result.assignments]
    assert (own - distances.min(1).values).max() < 1e-2
    assert result.inertia == pytest.approx(KMeans(20).fit(x - 1e4).inertia, rel=1e-3)


def test_bad_input_is_named() -> None:
    x = blobs(100, 3)
    x[17, 1] = torch.nan
    x[55, 0] = torch.inf
    with pytest.raises(NotFinite, match=r"\[17, 55\]"):
        KMeans(5).fit(x)
    with pytest.raises(ValueError, match="use k <= 4"):
        KMeans(5).fit(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        KMeans(5).fit(torch.zeros(4, 3, 2))
    with pytest.raises(TypeError, match="floats"):
        KMeans(5).fit(np.zeros((9, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="metric must be one of"):
        KMeans(5, metric="l1")  # type: ignore[arg-type]
    with pytest.raises(NotFinite, match="init must be finite"):
        KMeans(2, init=torch.full((2, 3), torch.inf))
    with pytest.raises(ValueError, match="n_init=1"):
        KMeans(5, init=torch.zeros(5, 3), n_init=2)
    with pytest.raises(ValueError, match="one length"):
        KMeans(5, init=torch.zeros(5, 4)).fit(torch.zeros(9, 3))
    with pytest.raises(RuntimeError, match="call fit"):
        KMeans(5).predict(torch.zeros(4, 3))


def test_k_equals_n_and_one() -> None:
    x = blobs(30, 4)
    everyone = KMeans(30).fit(x)
    assert (everyone.counts == 1).all()
    assert everyone.inertia == pytest.approx(0, abs=1e-6 * float(x.square().sum()))
    torch.testing.assert_close(KMeans(1).fit(x).centroids[0], x.mean(0))


def test_restarts_keep_the_best() -> None:
    x = blobs(500, 3)
    single = KMeans(7, n_init=1, seed=5).fit(x).inertia
    assert KMeans(7, n_init=8, seed=5).fit(x).inertia <= single


def test_plus_plus_spreads_and_never_repeats() -> None:
    x = torch.cat([torch.zeros(1000, 2), torch.tensor([[5.0, 0], [0, 5], [5, 5]])])
    for seed in range(5):
        result = KMeans(4, init="k-means++", n_iters=0, seed=seed, empty="keep").fit(x)
        assert result.inertia == 0


def test_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    KMeans(5, init="k-means++").fit(blobs(50, 3))
    assert torch.equal(state, torch.get_rng_state())


@given(st.integers(1, 4), st.integers(1, 300), st.sampled_from([1, 4, 10**6]), st.integers(0, 10**6))
@settings(deadline=None)
def test_first_argmin(n: int, k: int, values: int, seed: int) -> None:
    scores = torch.randint(0, values, (n, k), generator=torch.Generator().manual_seed(seed)).float()
    minimum, index = first_argmin(scores)
    assert (index == scores.argmin(1)).all()
    assert (minimum == scores.min(1).values).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["random", "k-means++", "rows"])
def test_faiss_backend(metric: str, init: str) -> None:
    pytest.importorskip("faiss", reason="the faiss extra is not installed")
    x = blobs(3000, 16)
    start = x[:40] if init == "rows" else init
    ours = KMeans(40, metric, n_iters=10, init=start).fit(x)
    theirs = KMeans(40, metric, n_iters=10, init=start, backend="faiss").fit(x)
    assert theirs.inertia_per_iter[0] == pytest.approx(
        ours.inertia_per_iter[0], rel=1e-4
    )  # the same rows to start from
    assert theirs.inertia == pytest.approx(ours.inertia, rel=2e-2)
    assert theirs.counts.min() > 0
    assert theirs.n_iter == len(theirs.inertia_per_iter) == 10
    assert vars(theirs).keys() == vars(ours).keys()
    assert KMeans(40, metric, n_iters=0, init=start, backend="faiss").fit(x).inertia_per_iter == ()
    if init == "random":
        best = KMeans(40, metric, n_iters=10, n_init=3, backend="faiss").fit(x)
        assert best.inertia <= theirs.inertia


def test_missing_faiss_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"cluster-memory\[faiss\]"):
        KMeans(5, backend="faiss").fit(blobs(50, 3))
