"""One step of ODC's memories, ours against the reference's way of keeping them, in one run on one machine.

    python benchmarks/bench_cluster_memory.py            # the table; N = 1,281,167 takes about 5 GB and some minutes
    python benchmarks/bench_cluster_memory.py --only splits      # or steps, flat, half
    pytest benchmarks/bench_cluster_memory.py            # the same steps under pytest-benchmark, N = 100,000

A step is update + split_small_clusters + loss_weights, and every tenth time update_centroids. `Reference` is that
algorithm over all samples, as ODC's published code does it on every rank: a bincount of N labels twice a step, a search
through N labels per small cluster, and every tenth step an argsort of N labels with a loop over K classes.
Both must score the batch against all centroids (B x K x D); that product is timed alone, for the difference.
`many splits`: one step in which 20 or 200 clusters are small. `half`: an epoch with a float16 bank and a float32 one.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from cluster_memory import OnlineClusters
from cluster_memory._two_means import cut_in_two
from torch import Tensor


class Reference:
    """The memories with nothing kept but features, labels and centroids."""

    def __init__(self, bank: Tensor, labels: Tensor, centroids: Tensor, min_cluster: int) -> None:
        self.bank, self.labels, self.centroids = bank.clone(), labels.clone(), centroids.clone()
        self.k, self.min_cluster = len(centroids), min_cluster

    def update(self, indices: Tensor, features: Tensor) -> None:
        features = features / (features.norm(dim=1, keepdim=True) + 1e-10)
        rows = 0.5 * self.bank[indices] + 0.5 * features
        rows = rows / (rows.norm(dim=1, keepdim=True) + 1e-10)
        self.bank[indices] = rows
        self.labels[indices] = (self.centroids @ rows.T).argmax(0)

    def update_centroids(self) -> None:
        order = self.labels.argsort()
        ends = torch.bincount(self.labels, minlength=self.k).cumsum(0).tolist()
        start = 0
        for c, end in enumerate(ends):
            if end > start:
                self.centroids[c] = self.bank[order[start:end]].mean(0)
            start = end

    def split_small_clusters(self) -> int:
        counts = torch.bincount(self.labels, minlength=self.k)
        small = (counts < self.min_cluster).nonzero().flatten()
        if not len(small):
            return 0
        others = (counts >= self.min_cluster).nonzero().flatten()
        for c in small.tolist():
            members = torch.where(self.labels == c)[0]
            if len(members):
                self.labels[members] = others[(self.centroids[others] @ self.bank[members].T).argmax(0)]
        for c in small.tolist():
            largest = torch.bincount(self.labels, minlength=self.k).argmax()
            members = torch.where(self.labels == largest)[0]
            self.labels[members[cut_in_two(self.bank[members], c)]] = c
            for changed in (int(largest), c):
                self.centroids[changed] = self.bank[self.labels == changed].mean(0)
        return len(small)

    def loss_weights(self) -> Tensor:
        weights = (torch.bincount(self.labels, minlength=self.k) + 1e-10) ** -0.5
        return weights / weights.sum()


def memory(n: int, k: int, dim: int, n_small: int = 0) -> OnlineClusters:
    """Filled without k-means: K centres with log-normal sizes, so that a few clusters are always near `min_cluster`.

    n_small: so many clusters are left with 10 members, to be dissolved in the next step; 0 repairs all beforehand."""
    g = torch.Generator().manual_seed(0)
    sizes = torch.empty(k).normal_(generator=g).mul_(0.7).exp_()
    labels = torch.multinomial(sizes, n, replacement=True, generator=g)
    features = torch.empty(n, dim).normal_(generator=g)
    centres = torch.randn(k, dim, generator=g)
    for start in range(0, n, 2**16):
        features[start : start + 2**16] += centres[labels[start : start + 2**16]]
    made = OnlineClusters(n, dim, k)
    made.initialise(features, labels)
    made.split_small_clusters()
    made.update_centroids()
    if n_small:
        labels = made.assignments.clone()
        for c in range(n_small):
            labels[(labels == c).nonzero().flatten()[10:]] = n_small + c
        made.initialise(features, labels)
    return made


def batches(state: OnlineClusters, batch: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """New features near the sample's own centroid, or for three in ten samples near another one."""
    g = torch.Generator().manual_seed(1)
    n, dim = state.bank.shape
    found = []
    for _ in range(steps):
        indices = torch.randint(0, n, (batch,), generator=g)
        towards = state.assignments[indices]
        elsewhere = torch.randint(0, len(state.counts), (batch,), generator=g)
        towards = torch.where(torch.rand(batch, generator=g) < 0.3, elsewhere, towards)
        noise = torch.randn(batch, dim, generator=g) / dim**0.5
        found.append((indices, 3 * state.centroids[towards] + noise))
    return found


def step(state: OnlineClusters | Reference, number: int, indices: Tensor, features: Tensor) -> int:
    state.update(indices, features)
    if number % 10 == 9:
        state.update_centroids()
    n_split = state.split_small_clusters()
    state.loss_weights()
    return n_split


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


State = OnlineClusters | Reference
Batches = list[tuple[Tensor, Tensor]]


def times(states: list[State], data: list[Batches], warm: int = 10) -> tuple[list[list[float]], list[int]]:
    """Seconds of each step after the first `warm`, and splits, of each state; they take turns, so both see one load."""
    seconds: list[list[float]] = [[] for _ in states]
    splits = [0] * len(states)
    for number in range(len(data[0])):
        for i, state in enumerate(states):
            start = time.perf_counter()
            n_split = step(state, number, *data[i][number])
            if number >= warm:
                seconds[i].append(time.perf_counter() - start)
                splits[i] += n_split
    return seconds, splits


def product(centroids: Tensor, batch: int) -> float:
    """Median seconds of what both sides must do: batch x centroids, and its arg max."""
    rows = torch.randn(batch, centroids.shape[1], generator=torch.Generator().manual_seed(0))
    return statistics.median(timed(lambda: (rows @ centroids.T).argmax(1)) for _ in range(20))


def state_mib(made: OnlineClusters) -> tuple[float, float]:
    """(buffers in the checkpoint, member lists) in MiB."""
    kept = sum(t.nbytes for t in made.state_dict().values())
    return kept / 2**20, sum(t.nbytes for t in made._members.buffers()) / 2**20


def compare(n: int, k: int, dim: int, batch: int, steps: int) -> None:
    ours = memory(n, k, dim)
    theirs = Reference(ours.bank, ours.assignments, ours.centroids, ours.effective_min_cluster)
    data = batches(ours, batch, steps)
    kept, lists = state_mib(ours)
    (reference, mine), splits = times([theirs, ours], [data, data])
    shared = product(ours.centroids, batch)
    print(f"N={n:,} K={k:,} D={dim} B={batch}, {len(mine)} steps; state {kept:.0f} MiB + member lists {lists:.0f} MiB")
    print(f"  small clusters split: reference {splits[0]}, ours {splits[1]}")
    for name, of in (("median", statistics.median), ("mean", statistics.mean)):
        a, b = of(reference), of(mine)
        print(
            f"  {name}: reference {a * 1e3:.1f} ms, ours {b * 1e3:.1f} ms, ratio {a / b:.1f}; shared product "
            f"{shared * 1e3:.1f} ms; without it {(a - shared) * 1e3:.1f} / {(b - shared) * 1e3:.1f} ms"
        )


def many_splits(n: int, k: int, dim: int, batch: int) -> None:
    print(f"many splits: one step (update, split, weights), N={n:,} K={k:,} D={dim} B={batch}")
    for n_small in (20, 200):
        ours = memory(n, k, dim, n_small)
        theirs = Reference(ours.bank, ours.assignments, ours.centroids, ours.effective_min_cluster)
        data = batches(ours, batch, 1)
        large = [ours.bank[ours.assignments == c] for c in ours.counts.argsort(descending=True)[:n_small]]
        cuts = timed(lambda rows=large: [cut_in_two(r, c) for c, r in enumerate(rows)])  # type: ignore[misc]
        (reference, mine), splits = times([theirs, ours], [data, data], warm=0)
        a, b = reference[0], mine[0]
        print(
            f"  splits: reference {splits[0]}, ours {splits[1]}: {a * 1e3:.0f} and {b * 1e3:.0f} ms, "
            f"ratio {a / b:.1f}; a split takes {a / splits[0] * 1e3:.1f} and {b / splits[1] * 1e3:.1f} ms, "
            f"of which its 2-means, common to both, {cuts / n_small * 1e3:.1f} ms"
        )


def half(n: int, k: int, dim: int, batch: int) -> None:
    """An epoch of the same batches into a float32 and a float16 bank that start from one state; no, few, many splits.

    Beside them a float32 bank whose rows are rounded to float16 once, before the epoch: splits are chaotic, as 2-means
    from a drawn start may end elsewhere after any change, and this shows what of the difference is theirs."""
    for min_cluster in (1, 20, 60):
        whole, narrow, once = memory(n, k, dim), OnlineClusters(n, dim, k, bank_dtype=torch.float16), memory(n, k, dim)
        narrow.load_state_dict(whole.state_dict())
        once.load_state_dict(narrow.state_dict())
        n_split = [0, 0, 0]
        for number, data in enumerate(batches(whole, batch, n // batch)):
            for i, state in enumerate((whole, narrow, once)):
                state.effective_min_cluster = min_cluster
                n_split[i] += step(state, number, *data)
        differ = [int((other.assignments != whole.assignments).sum()) for other in (narrow, once)]
        print(
            f"half: N={n:,} K={k:,} D={dim}, bank {whole.bank.nbytes / 2**20:.0f} and {narrow.bank.nbytes / 2**20:.0f} "
            f"MiB; after an epoch with {n_split} splits {differ[0]} samples in another cluster, entries differ by "
            f"{float((narrow.bank.float() - whole.bank).abs().max()):.1e} at most; rounded once: {differ[1]} samples"
        )


def flatness(n: int, k: int, dim: int, batch: int, steps: int) -> None:
    sizes = (n, 10 * n)
    states = [memory(samples, k, dim) for samples in sizes]
    seconds, splits = times(list(states), [batches(state, batch, steps) for state in states])
    for i, samples in enumerate(sizes):
        kept, lists = state_mib(states[i])
        print(
            f"  N={samples:,} D={dim}: median {statistics.median(seconds[i]) * 1e3:.1f} ms, {splits[i]} splits, "
            f"state {kept:.0f} + {lists:.0f} MiB"
        )
    print(f"  ten times N costs {statistics.median(seconds[1]) / statistics.median(seconds[0]):.2f} x")


@pytest.mark.parametrize("side", ["ours", "reference"])
def test_bench_online_step(benchmark, side: str) -> None:  # type: ignore[no-untyped-def]
    ours = memory(100_000, 1000, 256)
    state = ours if side == "ours" else Reference(ours.bank, ours.assignments, ours.centroids, 20)
    data = batches(ours, 512, 10)
    benchmark(lambda: [step(state, i, *b) for i, b in enumerate(data)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_281_167)
    parser.add_argument("--k", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--flat-dim", type=int, default=64, help="D of the comparison of N with 10 N; 0 skips it")
    parser.add_argument("--only", choices=["steps", "splits", "flat", "half"])
    options = parser.parse_args()
    size = options.n, options.k, options.dim, options.batch
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.only in (None, "steps"):
        compare(*size, options.steps)
    if options.only in (None, "splits"):
        many_splits(*size)
    if options.only in (None, "flat") and options.flat_dim:
        flatness(options.n, options.k, options.flat_dim, options.batch, options.steps)
    if options.only in (None, "half"):
        half(options.n // 16, options.k // 16, options.dim, options.batch)
