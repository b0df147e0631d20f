import numpy as np
import pytest
import torch
from cluster_memory import KMeans, NotFinite, PCAWhitening, _kmeans
from cluster_memory._nearest import first_argmin
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
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
    assert (result.assignments_.numpy() == labels).all()
    torch.testing.assert_close(result.centroids_, torch.from_numpy(centroids).float())
    np.testing.assert_allclose([*result.inertia_per_iter_, result.inertia_], inertia, rtol=1e-5)
    assert (result.counts_.numpy() == np.bincount(labels, minlength=9)).all()


def test_converges_where_scikit_learn_does() -> None:
    x = blobs(500, 8)
    ours = KMeans(7, n_iters=100, init=x[:7]).fit(x)
    theirs = SklearnKMeans(7, init=x[:7].numpy(), n_init=1, max_iter=100, tol=0).fit(x.numpy())
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)
    assert (ours.assignments_.numpy() == theirs.labels_).all()
    assert len(ours.inertia_per_iter_) < 100  # the fit stops when no assignment changes


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_fitted_attributes_are_consistent(metric: str, init: str) -> None:
    x = blobs(1200, 16)
    kmeans = KMeans(60, metric, n_iters=7, init=init, seed=3)
    result = kmeans.fit(x)
    assert all(a >= b for a, b in zip(result.inertia_per_iter_, result.inertia_per_iter_[1:], strict=False))
    assert result.counts_.sum() == 1200
    assert result.counts_.min() > 0
    assert (kmeans.predict(x) == result.assignments_).all()
    again = KMeans(60, metric, n_iters=7, init=init, seed=3).fit(x)
    assert torch.equal(again.centroids_, result.centroids_)
    assert torch.equal(again.assignments_, result.assignments_)
    assert KMeans(60, metric, n_iters=7, init=init, seed=4).fit(x).inertia_ != result.inertia_
    if metric == "cosine":
        torch.testing.assert_close(result.centroids_.norm(dim=1), torch.ones(60))


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
    assert result.centroids_.isfinite().all()
    assert result.assignments_.min() >= 0
    assert result.assignments_.max() < k
    assert (result.counts_ == torch.bincount(result.assignments_, minlength=k)).all()
    if distinct >= k:
        assert result.counts_.min() > 0
    else:
        assert (result.counts_ > 0).sum() >= min(distinct, 1)
    if metric == "cosine":
        distances = 1 - unit @ result.centroids_.double().T
        distances[~unit.any(1)] = 0  # no direction, no distance
    else:
        distances = squared_distances(unit, result.centroids_)
    own = distances[torch.arange(n), result.assignments_]
    torch.testing.assert_close(own, distances.min(1).values, atol=1e-4, rtol=1e-5)
    assert result.inertia_ == pytest.approx(float(own.sum()), rel=1e-4, abs=1e-4)


def test_repair_fills_half_empty_clusters() -> None:
    """All centroids start at the same point, so all but one are empty at first."""
    x = blobs(1000, 8)
    result = KMeans(50, init=x[:1].expand(50, -1).contiguous(), n_iters=10).fit(x)
    assert result.counts_.min() > 0
    assert result.n_repaired_ > 30  # the other empty clusters got members without a repair
    kept = KMeans(50, init=x[:1].expand(50, -1).contiguous(), n_iters=0, empty="keep").fit(x)
    assert (kept.counts_ > 0).sum() == 1
    assert kept.n_repaired_ == 0
    zero_iters = KMeans(50, init=x[:1].expand(50, -1).contiguous(), n_iters=0).fit(x)
    assert zero_iters.counts_.min() > 0
    assert zero_iters.n_repaired_ == 49


def test_rows_closer_than_rounding_still_fill_all_clusters() -> None:
    """Distances are far below the rounding of the matrix product, so each repaired cluster keeps only its own row."""
    x = torch.cat([torch.linspace(0, 1e-3, 20), torch.tensor([1000.0])])[:, None]
    for seed in range(5):
        assert (KMeans(21, init="random", n_iters=3, seed=seed).fit(x).counts_ == 1).all()


def test_memory_map_and_array_equal_tensor(tmp_path: object) -> None:
    x = blobs(700, 6)
    mapped = np.memmap(f"{tmp_path}/x.f16", dtype=np.float16, mode="w+", shape=(700, 6))
    mapped[:] = x.half().numpy()
    readonly = np.memmap(f"{tmp_path}/x.f16", dtype=np.float16, mode="r", shape=(700, 6))
    results = [KMeans(20).fit(a) for a in (readonly, np.asarray(readonly), x.half(), x.half().double())]
    assert all(torch.equal(results[0].assignments_, r.assignments_) for r in results)
    assert all(torch.equal(results[0].centroids_, r.centroids_) for r in results)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(metric: str, scale: float) -> None:
    x = blobs(400, 6)
    one, other = KMeans(10, metric).fit(x), KMeans(10, metric).fit(x * scale)
    assert (one.assignments_ == other.assignments_).float().mean() > 0.99
    assert other.centroids_.isfinite().all()
    expected = one.inertia_ if metric == "cosine" else one.inertia_ * scale**2
    assert other.inertia_ == pytest.approx(expected, rel=1e-2)


def test_far_from_the_origin() -> None:
    """Without centring, |c|^2 - 2 x.c could not resolve these clusters: float32 at 1e8 has steps above 1."""
    x = blobs(600, 4) + 1e4
    result = KMeans(20).fit(x)
    distances = squared_distances(x, result.centroids_)
    own = distances[torch.arange(600), result.assignments_]
    assert (own - distances.min(1).values).max() < 1e-2
    assert result.inertia_ == pytest.approx(KMeans(20).fit(x - 1e4).inertia_, rel=1e-3)


def test_params_and_repr() -> None:
    start = np.zeros((3, 2), np.float32)
    kmeans = KMeans(3, "cosine", 7, init=start, seed=4)
    assert clone(kmeans).get_params().keys() == kmeans.get_params().keys()
    assert kmeans.get_params()["init"] is start
    assert repr(kmeans) == (
        "KMeans(k=3, metric='cosine', n_iters=7, n_init=1, init=<ndarray (3, 2)>, empty='split', seed=4, "
        "backend='auto', group=None)"
    )
    assert repr(clone(PCAWhitening(5))) == "PCAWhitening(dim=5, at_most=False)"
    assert not hasattr(kmeans, "centroids_")
    with pytest.raises(TypeError, match="positional"):
        KMeans(3, "cosine", 7, 1)  # type: ignore[misc]


def test_arrays_give_what_tensors_give() -> None:
    x = blobs(200, 5)
    start = x[:8].numpy().copy()
    start.flags.writeable = False
    fitted = KMeans(8, init=start).fit(x.numpy())
    expected = KMeans(8, init=x[:8]).fit(x)
    assert torch.equal(fitted.centroids_, expected.centroids_)
    assert torch.equal(fitted.predict(x.numpy()), expected.assignments_)
    assert torch.equal(fitted.transform(x.numpy()), expected.transform(x))
    with pytest.raises(NotFinite, match="init must be finite"):
        KMeans(2, init=np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="K = 3"):
        KMeans(3, init=start)


def test_a_failed_fit_keeps_the_last_one() -> None:
    x = blobs(60, 3)
    kmeans = KMeans(6).fit(x)
    before = kmeans.centroids_.clone()
    with pytest.raises(NotFinite):
        kmeans.fit(x * torch.nan)
    assert torch.equal(kmeans.centroids_, before)
    assert torch.equal(kmeans.predict(x), kmeans.assignments_)


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
    assert (everyone.counts_ == 1).all()
    assert everyone.inertia_ == pytest.approx(0, abs=1e-6 * float(x.square().sum()))
    torch.testing.assert_close(KMeans(1).fit(x).centroids_[0], x.mean(0))


def test_restarts_keep_the_best() -> None:
    x = blobs(500, 3)
    single = KMeans(7, n_init=1, seed=5).fit(x).inertia_
    assert KMeans(7, n_init=8, seed=5).fit(x).inertia_ <= single


def test_plus_plus_spreads_and_never_repeats() -> None:
    x = torch.cat([torch.zeros(1000, 2), torch.tensor([[5.0, 0], [0, 5], [5, 5]])])
    for seed in range(5):
        result = KMeans(4, init="k-means++", n_iters=0, seed=seed, empty="keep").fit(x)
        assert result.inertia_ == 0


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
    assert theirs.inertia_per_iter_[0] == pytest.approx(
        ours.inertia_per_iter_[0], rel=1e-4
    )  # the same rows to start from
    assert theirs.inertia_ == pytest.approx(ours.inertia_, rel=2e-2)
    assert theirs.counts_.min() > 0
    assert theirs.n_iters_ == len(theirs.inertia_per_iter_) == 10
    assert vars(theirs).keys() == vars(ours).keys()
    assert KMeans(40, metric, n_iters=0, init=start, backend="faiss").fit(x).inertia_per_iter_ == ()
    if init == "random":
        best = KMeans(40, metric, n_iters=10, n_init=3, backend="faiss").fit(x)
        assert best.inertia_ <= theirs.inertia_


def test_missing_faiss_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"cluster-memory\[faiss\]"):
        KMeans(5, backend="faiss").fit(blobs(50, 3))
