"""The cost of a step of `OnlineClusters`, counted in operations and rows read, not in seconds."""

from collections import Counter

import pytest
import torch
from cluster_memory import OnlineClusters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

N, K = 4000, 20
# operations that give the host a value or a length, so that it would wait for a GPU
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "equal", "bincount"}


class Waits(TorchDispatchMode):
    """Counts the operations for which the host would wait on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.__name__.split(".")[0]
        masks = name in ("index", "index_put_") and any(
            t.dtype == torch.bool for t in tree_leaves(args[1]) if t is not None
        )
        if name in WAITING or "unique" in name or masks:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class RowsRead(TorchDispatchMode):
    """Counts the rows read from a bank."""

    def __init__(self, bank: torch.Tensor) -> None:
        super().__init__()
        self.bank, self.n = bank, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        reads = [a for a in tree_leaves(args) if isinstance(a, torch.Tensor) and a.data_ptr() == self.bank.data_ptr()]
        if reads and func.__name__ != "index_put_.default":
            assert func.__name__ in ("index.Tensor", "detach.default"), func.__name__
            self.n += len(out) if func.__name__ == "index.Tensor" else 0
        return out


def filled(sizes: torch.Tensor) -> OnlineClusters:
    memory = OnlineClusters(N, 8, K)
    labels = torch.arange(K).repeat_interleave(sizes)
    centres = torch.eye(8).repeat(3, 1)[:K] + torch.arange(K)[:, None] / K
    g = torch.Generator().manual_seed(0)
    memory.initialise(centres[labels] + 0.1 * torch.randn(N, 8, generator=g), labels)
    return memory


def test_the_host_asks_little_in_a_step_without_splits() -> None:
    """On a CPU a batch is checked at once; test_cluster_memory_gpu.py has the waits on a GPU."""
    memory = filled(torch.full((K,), N // K))
    g = torch.Generator().manual_seed(1)
    for _ in range(60):
        indices = torch.randint(0, N, (64,), generator=g)
        features = memory.centroids[memory.assignments_of(indices)]  # samples stay where they are
        with Waits() as waits:
            memory.update(indices, features)
            memory.update_centroids()
            split = memory.split_small_clusters()
            memory.loss_weights()
        assert split == 0
        assert waits.seen == {
            "_local_scalar_dense": 4
        }  # lowest and highest index, finite or not, number of small clusters
    for c in range(5):
        memory.update(torch.arange(c * 200, c * 200 + 195), memory.centroids[7].expand(195, -1))
    with Waits() as waits:
        assert memory.split_small_clusters() > 0
    assert waits.seen["_local_scalar_dense"] > 5  # a split waits more often, and the count shows it


def test_many_splits_read_only_the_clusters_concerned() -> None:
    """Of twenty clusters, fifteen are small: their members are read once, and one large cluster for each split."""
    sizes = torch.tensor([5] * 15 + [785] * 5)
    memory = filled(sizes)
    small = 15 * 5
    with RowsRead(memory.bank) as read:
        assert memory.split_small_clusters() == 15
    # Five clusters of about 800 are cut, then the largest halves: at most about 800 rows a split, not all 4,000.
    assert small + 15 * 300 < read.n <= small + 15 * 860
    assert memory.counts.min() >= 1
    assert torch.equal(memory.counts, torch.bincount(memory.assignments, minlength=K))
    with RowsRead(memory.bank) as read:
        memory.update(torch.arange(50), torch.ones(50, 8))
    assert read.n == 50


def test_member_lists_follow_after_any_number_of_moves() -> None:
    """They are updated after 64 relabellings or when they are read; a sample may have moved several times by then."""
    memory = OnlineClusters(60, 3, 4, min_cluster=1)
    g = torch.Generator().manual_seed(0)
    memory.initialise(torch.randn(60, 3, generator=g), torch.arange(60) % 4)
    for round_ in range(1, 200):
        for _ in range(round_ % 7 if round_ < 198 else 150):
            indices = torch.randint(0, 60, (9,), generator=g)
            memory.update(indices, torch.randn(9, 3, generator=g))
            indices.zero_()  # callers may reuse their tensor
            assert len(memory._moves) < 64
        memory._settle()
        samples, which, rows = memory._members_of(torch.arange(4))
        order = memory.assignments.argsort(stable=True)
        assert torch.equal(samples, order)
        assert torch.equal(which, memory.assignments[order])
        assert torch.equal(rows, memory.bank[order])
        assert len(memory._moves) == 0


def test_a_sample_written_twice_gets_one_row_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, writes to the same position have no fixed order."""
    memory = filled(torch.full((K,), N // K))
    written = []
    monkeypatch.setattr(memory, "_write", lambda *given: written.append(given))
    monkeypatch.setattr(memory, "_relabel", lambda samples, old, new: written.append((samples, new)))
    g = torch.Generator().manual_seed(0)
    indices = torch.randint(0, 9, (40,), generator=g)
    memory.update(indices, torch.randn(40, 8, generator=g))
    assert len(written) == 2
    for samples, values in written:
        for sample in samples.unique():
            assert len(values[samples == sample].unique(dim=0)) == 1
