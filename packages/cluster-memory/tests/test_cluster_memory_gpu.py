"""The code for GPUs, run on CPU tensors that are treated as tensors on a GPU.

It adds no floats in an order that is not fixed, waits for the device once a step, and raises errors at such a wait."""

import copy
import sys
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from cluster_memory import EpochBank, KMeans, NotFinite, OnlineClusters, _device, _faiss, cluster_stats
from cluster_memory._two_means import cut_in_two
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# operations that add and are not repeatable on CUDA, according to torch.use_deterministic_algorithms
RACING = ("index_add", "scatter_add", "cumsum", "put_", "histc", "bincount", "scatter_reduce", "index_reduce")
# operations that give the host a value or a length
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "equal", "bincount", "unique")


class Operations(TorchDispatchMode):
    """Counts operations that would race on a GPU, and those that would wait for it.

    `tolist` is not counted, since on a CPU it does not pass the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.racing: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        out = func(*args, **(kwargs or {}))
        adds = name.startswith(RACING) and not ("reduce" in name and args[4] in ("amin", "amax"))
        if adds and any(isinstance(t, torch.Tensor) and t.is_floating_point() for t in tree_leaves(out)):
            self.racing[name] += 1
        masked = name in ("index", "index_put_") and any(
            t.dtype == torch.bool for t in tree_leaves(args[1]) if t is not None
        )
        if name.startswith(WAITING) or masked:
            self.waiting[name] += 1
        return out


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes the package treat every tensor as one on a GPU, until called with False."""

    def pretend(yes: bool) -> None:
        monkeypatch.setattr(_device, "on_gpu", lambda device: yes)

    pretend(True)
    return pretend


def blobs(n: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g) + 3 * torch.randn(9, dim, generator=g)[torch.arange(n) % 9]


def online(n: int = 300, k: int = 12) -> OnlineClusters:
    memory = OnlineClusters(n, 6, k, min_cluster=8, seed=1)
    memory.initialise(blobs(n), torch.arange(n) % (k - 2))  # two start empty
    return memory


def steps(memory: OnlineClusters, n: int, crowd: float = 2.0) -> int:
    n_split, g = 0, torch.Generator().manual_seed(5)
    for step in range(n):
        centre = crowd * torch.randn(6, generator=torch.Generator().manual_seed(step // 5))  # close together
        indices = torch.randint(0, memory.n_samples, (48,), generator=g)
        memory.update(indices, torch.randn(48, 6, generator=g) + centre)
        if step % 10 == 9:
            memory.update_centroids()
        n_split += memory.split_small_clusters()
    return n_split


def clusterings() -> list[torch.Tensor]:
    """Results of everything that adds floats: first centroids, repairs of empty clusters, sums, splits."""
    x = blobs(200)
    x[::7] = x[0]
    found = []
    for metric in ("euclidean", "cosine"):
        for init in ("k-means++", x[:1].repeat(20, 1)):  # equal centroids: 19 clusters start empty
            found.append(KMeans(20, metric, n_iters=6, init=init).fit(x).centroids_)  # type: ignore[arg-type]
    found.append(cut_in_two(blobs(61), 1, 2).float())
    memory = online()
    assert steps(memory, 20) > 2
    return [*found, memory.centroids, memory.sums]


def test_no_float_is_added_in_an_open_order(gpu: Callable[[bool], None]) -> None:
    with Operations() as seen:
        there = clusterings()
    assert seen.racing == {}
    gpu(False)
    with Operations() as seen:
        here = clusterings()
    assert {"index_add_", "cumsum"} <= set(seen.racing)  # shows that the count works
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b)


def test_the_host_asks_once_in_a_step(gpu: Callable[[bool], None]) -> None:
    """The one wait, `tolist` of two numbers, is not counted here. Too few samples move to update the member lists."""
    n, k = 12_000, 12
    memory = OnlineClusters(n, 6, k)
    memory.initialise(blobs(n), torch.arange(n) % k)
    g = torch.Generator().manual_seed(0)
    for _ in range(70):
        indices = torch.randint(0, n, (32,), generator=g)
        features = memory.centroids[memory.assignments[indices]]  # samples stay where they are
        with Operations() as seen:
            memory.update(indices, features)
            memory.update_centroids()
            assert memory.split_small_clusters() == 0
            memory.loss_weights()
        assert seen.waiting == {}
    bank = EpochBank(40, 6, 2)
    z = torch.zeros(2, 8, 6)
    bank.write(torch.arange(8), z)
    with Operations() as seen:
        for start in (8, 9, 20):
            bank.write(torch.arange(start, start + 8), z)
    assert seen.waiting == {}
    with Operations() as seen:
        cluster_stats(memory.assignments, k, previous=memory.assignments.roll(1))
    assert seen.waiting == {"_local_scalar_dense": 1}  # of a number that is on the CPU


def test_a_bad_batch_changes_nothing_and_is_named_later(gpu: Callable[[bool], None]) -> None:
    memory = online()
    before = {name: value.clone() for name, value in memory.state_dict().items() if name != "step"}
    indices, features = torch.arange(40, 60), blobs(20, seed=3)
    poisoned = features.clone()
    poisoned[4, 2] = torch.nan
    for wrong, rows, error, match in (
        (indices, poisoned, NotFinite, r"samples \[44\]"),
        (indices + 281, features, ValueError, "positions in the data set"),
        (indices - 41, features, ValueError, "got -1 to 18"),
    ):
        for ask in (
            memory.split_small_clusters,
            memory.state_dict,
            lambda: memory.update(indices, features),
        ):
            assert memory.update(wrong, rows).isnan()
            assert all(torch.equal(getattr(memory, name), value) for name, value in before.items())
            with pytest.raises(error, match=match):
                ask()
            memory.split_small_clusters()  # the error is raised once only
    memory.update(indices, features)
    assert not torch.equal(memory.bank, before["bank"])


def test_steps_are_those_of_a_cpu(gpu: Callable[[bool], None]) -> None:
    there = online()
    n_split = steps(there, 40)
    gpu(False)
    here = online()
    assert steps(here, 40) == n_split > 5
    for (name, a), b in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert torch.equal(here.assignments, there.assignments)


def test_a_bank_ignores_wrong_indices_and_raises_later(gpu: Callable[[bool], None]) -> None:
    bank = EpochBank(10, 3, 2)
    z = torch.arange(24.0).reshape(2, 4, 3)
    bank.write(torch.tensor([1, 4, 1, 9]), z)
    assert torch.equal(bank.bank[:, 1], z[:, 2])  # the last occurrence is kept
    for ask in (bank.state_dict, lambda: bank.cluster(2, 1, seed=0, epoch=0)):
        before = bank.bank.clone()
        bank.write(torch.tensor([3, 10, 2, 0]), z)
        assert torch.equal(bank.bank, before)
        assert bank.written.nonzero().flatten().tolist() == [1, 4, 9]
        with pytest.raises(ValueError, match=r"in \[0, 10\), got 0 to 10"):
            ask()
    bank.cluster(2, 1, seed=0, epoch=0)
    bank.write(torch.tensor([3]), z[:, :1])  # a new epoch
    assert bank.written.sum() == 1


def test_a_mirror_follows_whoever_writes() -> None:
    bank, loaded = EpochBank(10, 3, 1), EpochBank(10, 3, 1)
    z = torch.eye(3).repeat(2, 1)[None]
    bank.write(torch.arange(6), z)
    bank.cluster(2, 1, seed=0, epoch=0)
    loaded.write(torch.arange(6), z)
    copied = copy.deepcopy(bank)
    loaded.load_state_dict(bank.state_dict())
    for memory in (bank, loaded, copied):  # all are closed, so the next write begins an epoch
        memory.write(torch.arange(2), z[:, :2])
        assert memory.written.sum() == 2
        memory.closed.fill_(True)  # not by `Mirror.write`
        memory.write(torch.arange(3, 6), z[:, :3])
        assert memory.written.sum() == 3


def test_stats_are_those_of_a_cpu(gpu: Callable[[bool], None]) -> None:
    g = torch.Generator().manual_seed(0)
    for n, lowest in ((0, 0), (1, 0), (50, 0), (80, -3)):
        now, then = torch.randint(lowest, 6, (n,), generator=g), torch.randint(lowest, 10**9, (n,), generator=g)
        then[: n // 2] = now[: n // 2]
        gpu(True)
        there = cluster_stats(now, 7, previous=then)
        gpu(False)
        here = cluster_stats(now, 7, previous=then)
        assert torch.equal(there.sizes, here.sizes)
        for name in ("n_empty", "smallest", "largest", "entropy", "effective_clusters", "change", "nmi"):
            assert getattr(there, name) == pytest.approx(getattr(here, name), abs=1e-12, nan_ok=True), name


class Resources:
    pass


def stand_in(n_gpus: int, calls: list[str]) -> ModuleType:
    """A module with the parts of faiss that this package calls; knn_gpu takes tensors, as with torch_utils."""
    faiss: Any = ModuleType("faiss")
    faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT, faiss.get_num_gpus = 1, 0, lambda: n_gpus

    def knn_gpu(resources: Any, queries: Any, base: Any, k: int, metric: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(resources, Resources)
        assert isinstance(queries, torch.Tensor)
        assert queries.is_contiguous()
        calls.append("knn_gpu")
        scores = queries @ base.T if metric == 0 else torch.cdist(queries, base).square()
        return scores.topk(k, largest=metric == 0)

    class Kmeans:
        def __init__(self, dim: int, k: int, niter: int, **options: Any) -> None:
            self.n_iters, self.cosine = niter, options["spherical"]

        def train(self, x: Any, init_centroids: Any) -> None:
            calls.append("Kmeans")
            fit = KMeans(len(init_centroids), "euclidean", self.n_iters, init=torch.from_numpy(init_centroids)).fit(x)
            self.centroids, self.obj = fit.centroids_.numpy(), list(fit.inertia_per_iter_)

    faiss.Kmeans = Kmeans
    if n_gpus:
        faiss.StandardGpuResources, faiss.knn_gpu = Resources, knn_gpu
    return faiss


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_faiss_on_a_gpu_takes_the_rows_where_they_are(
    metric: str, gpu: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "faiss", stand_in(1, calls))
    for name in ("faiss.contrib", "faiss.contrib.torch_utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    x = blobs(300)
    ours = KMeans(9, metric, n_iters=5, init=x[:9]).fit(x)  # type: ignore[arg-type]
    theirs = KMeans(9, metric, n_iters=5, init=x[:9], backend="faiss").fit(x)  # type: ignore[arg-type]
    assert (ours.engine_, theirs.engine_) == ("torch", "faiss-gpu")
    assert set(calls) == {"knn_gpu"}
    torch.testing.assert_close(theirs.centroids_, ours.centroids_)
    assert torch.equal(theirs.assignments_, ours.assignments_)
    n = len(ours.inertia_per_iter_)
    assert theirs.inertia_per_iter_[:n] == pytest.approx(ours.inertia_per_iter_, rel=1e-5)
    repaired = KMeans(9, metric, n_iters=5, init=x[:1].repeat(9, 1), backend="faiss").fit(x)  # type: ignore[arg-type]
    assert repaired.counts_.min() > 0


def test_faiss_without_a_gpu_says_that_it_copies(
    gpu: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "faiss", stand_in(0, calls))
    x = blobs(300)
    result = KMeans(9, n_iters=5, init=x[:9], backend="faiss").fit(x)
    assert result.engine_ == "faiss-cpu"
    assert calls == ["Kmeans"]
    assert "copies its 300 rows to main memory" in caplog.text
    caplog.clear()
    gpu(False)
    KMeans(9, n_iters=5, init=x[:9], backend="faiss").fit(x)
    assert not caplog.text


def test_two_faiss_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_faiss, "_is_installed", lambda name: name in ("faiss-cpu", "faiss-gpu"))
    with pytest.raises(ImportError, match="faiss-cpu and faiss-gpu both install the package faiss"):
        KMeans(5, backend="faiss").fit(blobs(50))
