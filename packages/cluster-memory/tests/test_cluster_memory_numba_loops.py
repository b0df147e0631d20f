"""numba loops find the same centroids as torch, and the number of threads does not change results."""

import importlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cluster_memory import KMeans, _assign
from cluster_memory._nearest import Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Rows
from cluster_memory._sources import Source
from cluster_memory._threads import Threads
from hypothesis import given, settings
from hypothesis import strategies as st

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


@needs_numba
def test_numba_coarse_nearest_scores_few_centroids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only rows with many centroids left use the float32 product with all centroids; all rows are right."""
    from cluster_memory import _numba_loops

    x = torch.randn(600, 64, generator=torch.Generator().manual_seed(0))
    c = x + 0.05
    monkeypatch.setattr(_numba_loops.Nearest, "best", lambda *_: pytest.fail("a product with all centroids"))
    assert torch.equal(_numba_loops.NumbaCoarseNearest(c, False)(x)[1], torch.arange(600))
    monkeypatch.undo()
    crowded = c[:1] + 1e-4 * c  # limits cannot rule any of these out
    coarse = _numba_loops.NumbaCoarseNearest(crowded, False)
    seen = []
    best = Nearest.best
    monkeypatch.setattr(_numba_loops.Nearest, "best", lambda self, rows: seen.append(rows) or best(self, rows))
    distance, index = coarse(x)
    assert len(seen) == 1
    exact = (x.double()[:, None] - crowded.double()).square().sum(2)
    torch.testing.assert_close(exact.gather(1, index[:, None])[:, 0], exact.amin(1), rtol=0, atol=2e-4)
    torch.testing.assert_close(distance.double(), exact.amin(1), rtol=0, atol=1e-3)


@needs_numba
@settings(deadline=None)
@given(
    st.booleans(),
    st.integers(1, 700),
    st.integers(1, 60),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_numba_minimum_and_sums_equal_torch(ties: bool, n: int, k: int, dim: int, cosine: bool, seed: int) -> None:
    from cluster_memory._numba_loops import NumbaNearest, add_by_label

    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (n, dim), generator=g).float() if ties else torch.randn(n, dim, generator=g)
    c = x[torch.randint(0, n, (k,), generator=g)]
    plain, compiled = Nearest(c, cosine), NumbaNearest(c, cosine)
    for facts in (None, plain.facts(x).copied()):
        (distance, index), (fast, where) = plain(x, facts), compiled(x, facts)
        assert torch.equal(index, where)
        assert torch.equal(distance, fast)
    sums, fast = torch.zeros(2, k, dim).unbind()
    for part in (x, x.T.contiguous().T):  # rows need not be contiguous
        sums.index_add_(0, index, part)
        add_by_label(fast, index, part)
    assert torch.equal(sums, fast)


@contextmanager
def threads_of_torch(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(monkeypatch: pytest.MonkeyPatch, k: int, metric: str, compiled: bool, threads: int) -> Any:
    """A fit by the code for large data, in blocks of 100 rows."""
    g = torch.Generator().manual_seed(k)
    x = 2 * torch.randn(k, 48, generator=g)[torch.randint(0, k, (3000,), generator=g)]
    x += torch.randn(x.shape, generator=g)
    loops = importlib.import_module("cluster_memory._numba_loops") if compiled else None
    with monkeypatch.context() as patch:
        patch.setattr(_assign, "_LARGE", 0)
        patch.setattr(_assign, "numba_loops", lambda *_: loops)
        patch.setattr(_assign, "coarse_dtype", lambda: torch.int8)
        patch.setattr("cluster_memory._kmeans.block_rows", lambda *_: 100)
        patch.setattr(_assign, "Threads", lambda _: Threads(threads))
        return KMeans(k, metric, n_iters=12).fit(x)


@needs_numba
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [40, 300])
def test_a_fit_by_numba_loops_equals_torch(k: int, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = fit(monkeypatch, k, metric, False, 1), fit(monkeypatch, k, metric, True, 1)
    assert torch.equal(plain.assignments_, compiled.assignments_)
    torch.testing.assert_close(plain.centroids_, compiled.centroids_)
    assert plain.n_iters_ == compiled.n_iters_
    if k < 256:
        assert torch.equal(plain.centroids_, compiled.centroids_)
        assert plain.inertia_ == compiled.inertia_
    else:
        assert 0 < compiled.rechecked_ < 1


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)])
@pytest.mark.parametrize("k", [40, 300])
def test_threads_change_no_bit(k: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = fit(monkeypatch, k, "euclidean", compiled, 1)
    for _ in range(3):
        several = fit(monkeypatch, k, "euclidean", compiled, 4)
        assert torch.equal(alone.assignments_, several.assignments_)
        assert torch.equal(alone.centroids_, several.centroids_)
        assert (alone.inertia_, alone.rechecked_) == (several.inertia_, several.rechecked_)


def test_threads_keep_order_and_torch_settings() -> None:
    with threads_of_torch(2):
        check_threads(Threads(3))


def check_threads(pool: Threads) -> None:
    taken, threads = [], set()

    def items() -> Any:
        for i in range(50):
            taken.append(i)
            yield i

    def job(i: int) -> tuple[int, int]:
        threads.add(threading.get_ident())
        return i, torch.get_num_threads()

    for n_done, (i, n_threads) in enumerate(pool.map(job, items())):
        assert i == n_done
        assert n_threads == 1
        assert len(taken) <= n_done + 4, "at most one block more than threads is read ahead"
    assert threading.get_ident() not in threads
    assert torch.get_num_threads() == 2
    inside = []
    later = threading.Thread(target=lambda: inside.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert inside == [2]
    with pytest.raises(ZeroDivisionError):
        list(pool.map(lambda i: 1 // i, [1, 0]))
    assert list(pool.map(str, [1, 2])) == ["1", "2"], "threads go on after an error"


def test_small_problems_and_machines_without_numba_load_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_assign.sys.modules, "cluster_memory._numba_loops", raising=False)
    small, large = (Rows(Source(torch.empty(1, 128).expand(n, -1)), n, Ranks(None)) for n in (10_000, 10**6))
    assert _assign.numba_loops(small, 100) is None
    assert _assign.numba_loops(small, 1000) is None
    monkeypatch.setattr(_assign.importlib.util, "find_spec", lambda name: None)
    assert _assign.numba_loops(large, 3000) is None


def test_a_source_that_gives_one_buffer_again_is_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    buffer = torch.empty(100, 16)

    def blocks() -> Any:
        for part in x.split(100):
            yield buffer.copy_(part)

    monkeypatch.setattr(_assign, "_LARGE", 0)
    monkeypatch.setattr(_assign, "numba_loops", lambda *_: None)
    start = x[:20]
    with threads_of_torch(4):
        read, whole = KMeans(20, n_iters=4, init=start).fit(blocks), KMeans(20, n_iters=4, init=start).fit(x)
    assert torch.equal(read.assignments_, whole.assignments_)
