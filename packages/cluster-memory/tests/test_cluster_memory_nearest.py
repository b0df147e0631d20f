"""All ways to find the nearest centroid (float32, int8 and bfloat16 limits, the GPU kernel) find the same one."""

import importlib.util
import itertools
import os
import subprocess
import sys

import pytest
import torch
from cluster_memory import KMeans, _assign
from cluster_memory._coarse import CoarseNearest, CoarseRows
from cluster_memory._nearest import Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._sources import Source
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

KINDS = ["normal", "long tails", "integers", "one spot", "zero rows", "far norms"]


def example(kind: str, n: int, k: int, dim: int, cosine: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=g)
    if kind == "long tails":
        x *= torch.randn(n, 1, generator=g).mul(2).exp()
    if kind == "integers":  # many equal centroids, many ties
        x = torch.randint(-1, 2, (n, dim), generator=g).float()
    if kind == "one spot":
        x = x[:1] + 1e-4 * x
    if kind == "zero rows":
        x[::2] = 0
    c = x[torch.randint(0, n, (k,), generator=g)]
    if kind in ("normal", "far norms"):
        c = c + 0.3 * torch.randn(k, dim, generator=g)
    if kind == "far norms":
        c[: k // 2] *= 1e-3
    return (normalize(x), normalize(c)) if cosine else (x, c)


def float64_distances(x: torch.Tensor, c: torch.Tensor, cosine: bool) -> torch.Tensor:
    x, c = x.double(), c.double()
    return torch.where(x.any(1, keepdim=True), 1 - x @ c.T, 0) if cosine else torch.cdist(x, c).square()


def check(x: torch.Tensor, c: torch.Tensor, cosine: bool, distance: torch.Tensor, index: torch.Tensor) -> None:
    every = float64_distances(x, c, cosine)
    assert index.dtype == torch.int64
    assert ((index >= 0) & (index < len(c))).all()
    least = every.min(1).values
    own = every.gather(1, index[:, None])[:, 0]
    size = x.square().sum(1) + c.square().sum(1).max()
    assert (own - least <= 1e-6 * size).all()
    sure = every.sort(1).values[:, :2].diff(dim=1)[:, 0] > 1e-6 * size if len(c) > 1 else torch.ones(len(x)).bool()
    assert torch.equal(index[sure], every.argmin(1)[sure])
    assert ((distance - least).abs() <= 1e-5 * size).all()


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 200),
    st.integers(1, 150),
    st.integers(1, 70),
    st.booleans(),
    st.sampled_from([torch.int8, torch.bfloat16]),
    st.integers(0, 10**6),
)
def test_coarse_nearest_equals_float64(
    kind: str, n: int, k: int, dim: int, cosine: bool, dtype: torch.dtype, seed: int
) -> None:
    x, c = example(kind, n, k, dim, cosine, seed)
    coarse = CoarseNearest(c, cosine, dtype)
    check(x, c, cosine, *coarse(x))
    assert 0 <= coarse.n_rechecked <= coarse.n_seen == n
    if kind == "integers":  # exact in every precision, so ties can be compared
        assert torch.equal(coarse(x)[1], Nearest(c, cosine)(x)[1]) or cosine


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 300),
    st.integers(1, 400),
    st.integers(1, 70),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_numba_coarse_nearest_equals_float64(kind: str, n: int, k: int, dim: int, cosine: bool, seed: int) -> None:
    pytest.importorskip("numba")
    from cluster_memory._numba_loops import NumbaCoarseNearest

    x, c = example(kind, n, k, dim, cosine, seed)
    coarse = NumbaCoarseNearest(c, cosine)
    distance, index = coarse(x)
    check(x, c, cosine, distance, index)
    assert 0 <= coarse.n_rechecked <= coarse.n_seen == n
    if kind == "integers" and not cosine:  # exact in every precision, so ties can be compared
        assert torch.equal(index, Nearest(c, cosine)(x)[1])


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
@pytest.mark.parametrize("cosine", [False, True])
def test_limits_are_limits_and_rule_most_out(dtype: torch.dtype, cosine: bool) -> None:
    x, c = example("normal", 500, 320, 64, cosine, 0)
    coarse = CoarseNearest(c, cosine, dtype)
    limits = coarse._upper_limits(CoarseRows.of(x, dtype))
    scores = x.double() @ c.double().T - (0 if cosine else c.double().square().sum(1) / 2)
    best = scores[:, coarse._members].amax(2)  # (N, G)
    assert (limits >= best).all()
    assert (limits >= best.amax(1, keepdim=True)).float().mean() < 0.15
    coarse(x)
    assert coarse.n_rechecked < 0.8 * coarse.n_seen


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_fit_by_coarse_products_equals_float32(
    dtype: torch.dtype, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = example("normal", 3000, 1, 128, False, 1)
    monkeypatch.setattr(_assign, "coarse_dtype", lambda: None)
    plain = KMeans(300, metric, n_iters=6).fit(x)
    monkeypatch.setattr(_assign, "coarse_dtype", lambda: dtype)
    result = KMeans(300, metric, n_iters=6).fit(x)
    assert torch.equal(result.assignments_, plain.assignments_)
    torch.testing.assert_close(result.centroids_, plain.centroids_)
    assert plain.rechecked_ == 0
    assert 0 < result.rechecked_ < 1


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 200),
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from(["euclidean", "cosine"]),
    st.sampled_from([None, torch.int8, torch.bfloat16]),
    st.integers(0, 10**6),
)
def test_centroids_that_stay_are_not_compared_again(
    kind: str, n: int, k: int, dim: int, metric: str, dtype: torch.dtype | None, seed: int
) -> None:
    """Updates after which none, a few, half or all of the centroids moved, each checked against all distances."""
    cosine = metric == "cosine"
    x, c = example(kind, n, k, dim, cosine, seed)
    g = torch.Generator().manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_assign, "coarse_dtype", lambda: dtype)
        patch.setattr(_assign, "is_worth_it", lambda k, dim: k > 3)  # few and all centroids by different methods
        rows = Rows(Source(x), 70, Ranks(None))
        rows.check_finite()
        frame = Frame(cosine, torch.zeros(dim), 1.0, is_identity=not cosine)
        assigned = _assign.Assignment(rows, len(c), frame, Ranks(None))
        for share in (0, 0.1, 0.3, 0, 0.5, 1, 0.2):
            moves = torch.rand(len(c), generator=g) < share
            away = c + 0.5 * torch.randn(c.shape, generator=g)
            c = torch.where(moves[:, None], normalize(away) if cosine else away, c)
            before = assigned.labels.clone()
            changed, sums = assigned.update(c)
            framed = frame.enter(c)
            check(frame.enter(x), framed, cosine, assigned.distance, assigned.labels)
            assert changed == (not torch.equal(assigned.labels, before))
            expected = torch.zeros(c.shape, dtype=torch.float64)
            expected.index_add_(0, assigned.labels, frame.enter(x).double())
            torch.testing.assert_close(sums, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("numba", [False, True])
def test_ties_of_moved_and_unmoved_go_to_the_lowest(numba: bool) -> None:
    """Rows at the origin have a centroid at distance 1. Then another comes as near, their own leaves, or both."""
    loops = pytest.importorskip("cluster_memory._numba_loops") if numba else None
    near = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    far = 7 * near
    x = torch.zeros(3, 2)
    for before, after in itertools.product(itertools.product([False, True], repeat=4), repeat=2):
        if sum(b != a for b, a in zip(before, after, strict=True)) > 2:
            continue  # a pass over all
        rows = Rows(Source(x), 2, Ranks(None))
        rows.check_finite()
        frame = Frame(False, torch.zeros(2), 1.0, is_identity=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_assign, "numba_loops", lambda *_: loops)
            assigned, full = (_assign.Assignment(rows, 4, frame, Ranks(None)) for _ in range(2))
            assigned.update(torch.where(torch.tensor(before)[:, None], near, far))
            patch.setattr(assigned, "_among_all", lambda _: pytest.fail("a pass over all"))
            centroids = torch.where(torch.tensor(after)[:, None], near, far)
            assigned.update(centroids)
            full.update(centroids)
        lowest = after.index(True) if any(after) else 0
        assert assigned.labels.tolist() == full.labels.tolist() == [lowest] * 3, (before, after)
        assert torch.equal(assigned.distance, full.distance)


def test_passes_over_moved_centroids_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """On well separated clusters, later iterations compare rows with a few centroids only."""
    g = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(60, 8, generator=g)[torch.randint(0, 60, (3000,), generator=g)]
    x += torch.randn(x.shape, generator=g)
    n_scored = []
    scores = Nearest.scores
    monkeypatch.setattr(Nearest, "scores", lambda self, *a: n_scored.append(len(self.centroids)) or scores(self, *a))
    fast = KMeans(60, n_iters=15).fit(x)
    assert min(n_scored) < 30 < max(n_scored)
    monkeypatch.setattr(_assign.Assignment, "_among_moved", lambda self, every, moved: self._among_all(every))
    plain = KMeans(60, n_iters=15).fit(x)
    assert torch.equal(fast.assignments_, plain.assignments_)
    assert torch.equal(fast.centroids_, plain.centroids_)
    assert fast.n_iters_ == plain.n_iters_


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 20), st.integers(1, 5), st.integers(0, 10**6))
def test_sums_by_label(n: int, k: int, dim: int, seed: int) -> None:
    """In parts, as on a CPU, and by sorted segments, as on a GPU."""
    g = torch.Generator().manual_seed(seed)
    x, labels = torch.randn(n, dim, generator=g), torch.randint(0, k, (n,), generator=g)
    expected = torch.zeros(k, dim, dtype=torch.float64).index_add_(0, labels, x.double())
    sums = _assign.LabelSums(torch.empty(k, dim))
    for part in range(0, n, 700):
        sums.add(labels[part : part + 700], x[part : part + 700])
    torch.testing.assert_close(sums.total(), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(_assign.segment_sums(labels, x.double(), k), expected)


TRITON = """
import torch
from cluster_memory._triton_nearest import nearest
from test_cluster_memory_nearest import check, example
from cluster_memory._nearest import Nearest
sizes = [(1, 1, 1), (37, 53, 7), (33, 17, 40), (16, 16, 16), (50, 3, 33)]
for number, (n, k, dim) in enumerate(sizes):
    for kind in ("normal", "integers", "zero rows"):
        for cosine in (False, True):
            x, c = example(kind, n, k, dim, cosine, number)
            exact = Nearest(c, cosine)
            best, index = nearest(x, c, exact.bias, -1.0 if cosine else -2.0, tiles=(16, 16, 16))
            check(x, c, cosine, exact.distance(x.square().sum(1), best), index)
            if kind == "integers" and not cosine:
                assert torch.equal(index, exact(x)[1]), "ties go to the lower index"
same = torch.ones(20, 3)
assert (nearest(same, same, torch.zeros(20), -1.0, tiles=(16, 16, 16))[1] == 0).all()
assert len(nearest(same[:0], same, torch.zeros(20), -1.0)[1]) == 0
print("checked")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernel_by_its_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.path.dirname(__file__)}
    run = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "checked\n", run.stderr[-2000:]
