import numpy as np
import pytest
import torch
from cluster_memory import KMeans, NotFinite, OnlineClusters
from cluster_memory._two_means import cut_in_two, uniforms
from torch.utils._python_dispatch import TorchDispatchMode


class NaiveODC:
    """The paper's memories, as NumPy loops over all samples in float64. It shares only the random draws with ours."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, k: int, threshold: int, seed: int) -> None:
        self.bank = np.stack([f / (np.linalg.norm(f) + 1e-10) for f in features.astype(np.float64)])
        self.labels, self.k, self.threshold, self.seed, self.step = labels.copy(), k, threshold, seed, 0
        self.centroids = np.zeros((k, features.shape[1]))
        self.fill(range(k), [])
        self.update_centroids()

    def update_centroids(self) -> None:
        for c in range(self.k):
            if (self.labels == c).any():
                self.centroids[c] = self.bank[self.labels == c].mean(0)

    def update(self, indices: np.ndarray, features: np.ndarray, ties: list[float]) -> float:
        self.step += 1
        bank, labels, changed = self.bank.copy(), self.labels.copy(), 0
        for i, f in zip(indices, features.astype(np.float64), strict=True):
            row = 0.5 * self.bank[i] + 0.5 * f / (np.linalg.norm(f) + 1e-10)
            row = row / (np.linalg.norm(row) + 1e-10)
            bank[i], labels[i] = row, self.nearest(row, range(self.k), ties)
            changed += labels[i] != self.labels[i]
        self.bank, self.labels = bank, labels
        return changed / len(indices)

    def nearest(self, row: np.ndarray, candidates: object, ties: list[float]) -> int:
        scores = [(self.centroids[c] @ row, -c) for c in candidates]  # type: ignore[attr-defined]
        best, second = sorted(scores, reverse=True)[:2] if len(scores) > 1 else (scores[0], (-9.0, 0))
        ties.append(best[0] - second[0])
        return -best[1]

    def split_small(self, ties: list[float]) -> int:
        sizes = [(self.labels == c).sum() for c in range(self.k)]
        small = [c for c in range(self.k) if sizes[c] < self.threshold]
        candidates = [c for c in range(self.k) if c not in small]
        labels = self.labels.copy()
        for i in range(len(labels)):
            if self.labels[i] in small:
                labels[i] = self.nearest(self.bank[i], candidates, ties)
        self.labels = labels
        self.fill(small, ties)
        return len(small)

    def fill(self, clusters: object, ties: list[float]) -> None:
        for e in clusters:  # type: ignore[attr-defined]
            if (self.labels == e).any():
                continue
            largest = int(np.argmax([(self.labels == c).sum() for c in range(self.k)]))
            members = np.where(self.labels == largest)[0]
            side = naive_two_means(self.bank[members], ties, self.seed, self.step, e)
            self.labels[members[side]] = e
            for c in (largest, e):
                self.centroids[c] = self.bank[self.labels == c].mean(0)


def naive_two_means(rows: np.ndarray, ties: list[float], *key: int) -> np.ndarray:
    first, second = uniforms(2, *key)
    one = rows[int(first * len(rows))]
    weights = [((r - one) ** 2).sum() for r in rows]
    side = np.zeros(len(rows), dtype=bool)
    if sum(weights) > 0:
        running, two = 0.0, rows[-1]
        for r, w in zip(rows, weights, strict=True):
            running += w
            ties.append(abs(running - second * sum(weights)))
            if running > second * sum(weights):
                two = r
                break
        for _ in range(20):
            margin = ((rows - one) ** 2).sum(1) - ((rows - two) ** 2).sum(1)
            ties.extend(np.abs(margin))
            side = margin > 0
            if side.all() or not side.any():
                break
            one, two = rows[~side].mean(0), rows[side].mean(0)
    if side.all() or not side.any():
        g = torch.Generator().manual_seed(int(first * 2**53))
        side = torch.randperm(len(rows), generator=g).numpy() < len(rows) // 2
    return side


def drifting(n: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g), g


def run(memory: OnlineClusters, g: torch.Generator, steps: int, batch: int = 16) -> None:
    n, dim = memory.bank.shape
    for s in range(steps):
        memory.update(torch.randint(0, n, (batch,), generator=g), torch.randn(batch, dim, generator=g))
        if s % 10 == 9:
            memory.update_centroids()
        memory.split_small_clusters()


def check_consistent(memory: OnlineClusters) -> None:
    k = len(memory.counts)
    assert torch.equal(memory.counts, torch.bincount(memory.assignments, minlength=k))
    sums = torch.zeros_like(memory.sums).index_add_(0, memory.assignments, memory.bank.double())
    torch.testing.assert_close(memory.sums, sums, atol=1e-10, rtol=0)
    memory._settle()
    for c in range(k):
        members, _, _ = memory._members_of(torch.tensor([c]))
        assert torch.equal(members, (memory.assignments == c).nonzero().flatten())


@pytest.mark.parametrize(
    ("n", "k", "min_cluster", "dtype", "tolerance"),
    [
        (150, 5, 20, torch.float32, 1e-5),
        (50, 10, 20, torch.float32, 1e-5),
        pytest.param(70, 4, 5, torch.float32, 1e-5, marks=pytest.mark.slow),
        # Each write rounds by up to 2^-12 of the largest entry, and half of the earlier error stays: 2^-11 in total,
        # and 1.4 times that if the sum of two rows is shorter than the rows.
        (150, 5, 20, torch.float16, 1e-3),
    ],
)
def test_equals_the_naive_loop_for_500_steps(
    n: int, k: int, min_cluster: int, dtype: torch.dtype, tolerance: float
) -> None:
    x, g = drifting(n, 5)
    first = torch.randint(0, k - 2, (n,), generator=g)  # two clusters start empty
    memory = OnlineClusters(n, 5, k, min_cluster=min_cluster, seed=7, bank_dtype=dtype)
    memory.initialise(x, first)
    naive = NaiveODC(x.numpy(), first.numpy(), k, memory.effective_min_cluster, seed=7)
    assert (memory.assignments.numpy() == naive.labels).all()
    n_split = n_ties = 0
    centre = torch.randn(5, generator=g)
    for step in range(500):
        indices = torch.randint(0, n, (12,), generator=g)
        if step % 3 == 0:
            indices[6:] = indices[:6].clone()  # duplicates
        features = torch.randn(12, 5, generator=g) + 2 * centre  # close together, so that other clusters become small
        if step % 50 == 0:
            centre = torch.randn(5, generator=g)
        ties: list[float] = []
        ratio = memory.update(indices, features)
        naive_ratio = naive.update(indices.numpy(), features.numpy(), ties)
        if step % 10 == 9:
            memory.update_centroids()
            naive.update_centroids()
        split = naive.split_small(ties)
        assert memory.split_small_clusters() == split
        n_split += split
        if min(ties) > tolerance:
            assert float(ratio) == pytest.approx(naive_ratio)
        differs = memory.assignments.numpy() != naive.labels
        if differs.any():
            assert min(ties) < tolerance, f"step {step}: no tie explains {differs.sum()} differences"
            n_ties += 1
            naive.labels, naive.centroids = memory.assignments.numpy().copy(), memory.centroids.double().numpy()
        np.testing.assert_allclose(memory.centroids.numpy(), naive.centroids, atol=tolerance)
        np.testing.assert_allclose(memory.bank.float().numpy(), naive.bank, atol=tolerance)
    assert n_split > 20
    assert n_ties < 10
    check_consistent(memory)


def test_resume_is_bit_identical() -> None:
    x, g = drifting(300, 8)
    memory = OnlineClusters(300, 8, 10, seed=1)
    memory.initialise(x, torch.randint(0, 10, (300,), generator=g))
    run(memory, g, 40)
    copy = OnlineClusters(300, 8, 10, seed=1)
    copy.load_state_dict(memory.state_dict())
    state = g.get_state()
    run(memory, g, 40)
    g.set_state(state)
    run(copy, g, 40)
    for name, value in memory.state_dict().items():
        assert torch.equal(value, copy.state_dict()[name]), name


def test_arrays_give_what_tensors_give() -> None:
    x, g = drifting(60, 4)
    first, indices = torch.randint(0, 5, (60,), generator=g), torch.randint(0, 60, (16,), generator=g)
    one, other = OnlineClusters(60, 4, 5), OnlineClusters(60, 4, 5)
    one.initialise(x, first)
    other.initialise(x.numpy(), first.numpy())
    features = torch.randn(16, 4, generator=g)
    assert torch.equal(one.update(indices, features), other.update(indices.numpy(), features.double().numpy()))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert torch.equal(one.assignments_of(indices), other.assignments_of(indices.numpy()))
    assert "n_samples=60, dim=4, k=5, momentum=0.5, min_cluster=20, seed=0" in repr(one)
    with pytest.raises(TypeError, match="positional"):
        OnlineClusters(60, 4, 5, 0.5, 20, None)  # type: ignore[misc]


def test_state_is_the_buffers_only() -> None:
    memory = OnlineClusters(30, 2, 3)
    assert set(memory.state_dict()) == {"bank", "assignments", "centroids", "sums", "counts", "step"}
    assert (memory.assignments == -100).all()
    with pytest.raises(RuntimeError, match="initialise"):
        memory.update(torch.tensor([0]), torch.zeros(1, 2))
    memory.load_state_dict(OnlineClusters(30, 2, 3).state_dict())
    with pytest.raises(RuntimeError, match="initialise"):
        memory.update(torch.tensor([0]), torch.zeros(1, 2))


def test_last_duplicate_wins_and_both_start_from_the_old_row() -> None:
    memory = OnlineClusters(6, 2, 2)
    memory.initialise(torch.eye(2).repeat(3, 1), torch.tensor([0, 1] * 3))
    features = torch.tensor([[0.0, 3.0], [0.0, -2.0], [5.0, 0.0]])
    ratio = memory.update(torch.tensor([0, 0, 2]), features)
    torch.testing.assert_close(memory.bank[0], torch.tensor([0.5, -0.5]) * 2**0.5)
    assert memory.assignments[0] == 0  # the first occurrence alone, (.7, .7), would be a tie
    assert float(ratio) == 0
    check_consistent(memory)


def test_loss_weights_of_four_sizes() -> None:
    memory = OnlineClusters(130, 2, 4, min_cluster=1)
    sizes = torch.tensor([100, 25, 4, 1])
    memory.initialise(torch.randn(130, 2, generator=torch.Generator()), torch.arange(4).repeat_interleave(sizes))
    torch.testing.assert_close(memory.loss_weights(), torch.tensor([0.0556, 0.1111, 0.2778, 0.5556]), atol=5e-5, rtol=0)
    torch.testing.assert_close(memory.loss_weights(0.0), torch.full((4,), 0.25))
    assert memory.loss_weights().dtype == torch.float32


@pytest.mark.parametrize(("n", "k"), [(10, 10), (50, 10), (2, 1), (11, 10), (41, 20)])
def test_small_data_never_crashes(n: int, k: int) -> None:
    x, g = drifting(n, 3)
    memory = OnlineClusters(n, 3, k)
    assert memory.effective_min_cluster == min(20, max(1, n // (2 * k)))
    memory.initialise(x, torch.zeros(n, dtype=torch.int64))
    assert memory.counts.min() >= 1
    for _ in range(60):
        run(memory, g, 1, batch=5)
        assert memory.counts.min() >= 1
    check_consistent(memory)


def test_identical_and_zero_features() -> None:
    memory = OnlineClusters(100, 4, 10)
    memory.initialise(torch.ones(100, 4), torch.zeros(100, dtype=torch.int64))
    assert memory.counts.min() > 0
    memory.update(torch.arange(100), torch.ones(100, 4))
    memory.split_small_clusters()
    assert memory.counts.min() > 0
    for _ in range(40):  # halved each time, until the rows are zero
        memory.update(torch.arange(100), torch.zeros(100, 4))
    zero = OnlineClusters(100, 4, 10)
    zero.initialise(torch.zeros(100, 4), torch.arange(100) % 10)
    zero.update(torch.arange(50), torch.zeros(50, 4))
    assert (zero.assignments[:50] == 0).all()  # all scores are 0, so the lowest index wins
    zero.split_small_clusters()
    assert zero.counts.min() > 0
    assert zero.centroids.isfinite().all()
    check_consistent(zero)


def test_a_step_never_touches_all_samples() -> None:
    """Operations on tensors as long as the data set may only read or write at indices."""
    n, k = 1_000_000, 50
    allowed = ("index.Tensor", "index_put_.default", "detach.default", "view.default")

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            tensors = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
            if max([t.numel() for t in tensors], default=0) >= n:
                seen.add(func.__name__)
            return func(*args, **(kwargs or {}))

    seen: set[str] = set()
    x, g = drifting(n, 2)
    memory = OnlineClusters(n, 2, k)
    memory.initialise(x, torch.randint(0, k, (n,), generator=g))
    with Watch():
        run(memory, g, 20)
        memory.loss_weights()
    assert seen <= set(allowed), seen
    assert seen
    with Watch():
        memory.assignments.bincount()
    assert not seen <= set(allowed)  # a pass over all samples would be noticed


def test_sums_do_not_drift() -> None:
    """100,000 updates of float32 rows stay within the stated bound, 2 U 2^-53 max|sum|, and in fact far below it."""
    x, g = drifting(400, 16)
    memory = OnlineClusters(400, 16, 8, min_cluster=1)
    memory.initialise(x, torch.randint(0, 8, (400,), generator=g))
    for _ in range(100):
        memory.update(torch.randint(0, 400, (1000,), generator=g), torch.randn(1000, 16, generator=g))
    sums = torch.zeros_like(memory.sums).index_add_(0, memory.assignments, memory.bank.double())
    assert (memory.sums - sums).abs().max() <= 2 * 100_000 * 2**-53 * 400
    assert (memory.sums - sums).abs().max() < 1e-13


def test_starts_from_kmeans() -> None:
    x, g = drifting(500, 6)
    memory = OnlineClusters(500, 6, 10)
    result = KMeans(10, "cosine").fit(x)
    memory.initialise(x, result.assignments_)
    unit = torch.nn.functional.normalize(x, dim=1)
    for c in range(10):
        torch.testing.assert_close(memory.centroids[c], unit[result.assignments_ == c].mean(0))
    torch.testing.assert_close(memory.bank, unit)
    run(memory, g, 50)
    assert memory.counts.min() >= 1


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="use k <= 5"):
        OnlineClusters(5, 2, 6)
    with pytest.raises(ValueError, match="momentum"):
        OnlineClusters(5, 2, 2, momentum=1.5)
    memory = OnlineClusters(6, 2, 2)
    with pytest.raises(ValueError, match="cluster all"):
        memory.initialise(torch.ones(6, 2), torch.tensor([0, 1, 2, 0, 1, 0]))
    with pytest.raises(ValueError, match="expected features"):
        memory.initialise(torch.ones(5, 2), torch.zeros(5, dtype=torch.int64))
    memory.initialise(torch.ones(6, 2), torch.tensor([0, 1] * 3))
    with pytest.raises(ValueError, match="positions in the data set"):
        memory.update(torch.tensor([6]), torch.ones(1, 2))
    with pytest.raises(ValueError, match="expected indices"):
        memory.update(torch.tensor([1]), torch.ones(1, 3))
    before = memory.bank.clone()
    with pytest.raises(NotFinite, match=r"samples \[3\]"):
        memory.update(torch.tensor([1, 3]), torch.tensor([[1, 1], [1, torch.nan]]))
    assert torch.equal(memory.bank, before)


def test_cut_in_two_finds_two_blobs_and_halves_one_point() -> None:
    x, _ = drifting(40, 3)
    x[:15] += 30
    side = cut_in_two(x, 1, 2, 3)
    assert side[:15].all() != side[15:].all()
    assert side[:15].unique().numel() == 1
    halves = cut_in_two(torch.ones(9, 3), 1)
    assert int(halves.sum()) == 4
    assert torch.equal(halves, cut_in_two(torch.ones(9, 3), 1))
    assert not torch.equal(halves, cut_in_two(torch.ones(9, 3), 2))
    draws = [uniforms(1, seed, 5)[0] for seed in range(2000)]
    assert 0 <= min(draws) < max(draws) < 1
    assert abs(np.mean(draws) - 0.5) < 0.03
