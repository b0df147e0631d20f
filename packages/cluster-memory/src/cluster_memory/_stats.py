"""Statistics of a clustering, and how much it changed since the last one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cluster_memory import _device
from cluster_memory._sources import Array, as_tensor


@dataclass(frozen=True)
class ClusterStats:
    """Statistics of a clustering, from `cluster_stats`.

    Attributes:
        sizes: (K,) int64 tensor, the number of samples in each cluster.
        n_empty: Number of empty clusters.
        smallest: Size of the smallest of all K clusters.
        largest: Size of the largest cluster.
        entropy: Entropy of the sizes in nats, in [0, log K].
        effective_clusters: exp(entropy), in [1, K].
        change: Share of samples whose cluster differs from the previous clustering, in [0, 1]; None without one.
        nmi: Normalised mutual information with the previous clustering, in [0, 1]; None without one.
    """

    sizes: Tensor
    n_empty: int
    smallest: int
    largest: int
    entropy: float
    effective_clusters: float
    change: float | None
    nmi: float | None


def cluster_stats(assignments: Array, k: int, previous: Array | None = None) -> ClusterStats:
    """Computes sizes and entropy of a clustering and, if `previous` is given, its change and NMI.

    NMI is divided by the arithmetic mean of the entropies, as in scikit-learn. Two clusterings with one cluster each
    have NMI 1. On a GPU the host waits once.

    Args:
        assignments: (N,) integer tensor or NumPy array of clusters below k. Negative values mean unassigned.
        k: Number of clusters.
        previous: (N,) clusters of the same samples before. Change and NMI leave out samples that are unassigned in
            either clustering.

    Returns:
        The statistics. `sizes` is on the device of `assignments` (CPU for an array).

    Raises:
        ValueError: If an assignment is k or more, or the shapes differ.
        TypeError: If assignments are not integers.

    Example:
        ```python
        stats = cluster_stats(kmeans.assignments_, k=1000, previous=last_assignments)
        print(stats.n_empty, stats.effective_clusters, stats.nmi)
        ```
    """
    assignments = _integers(assignments)
    previous = None if previous is None else _integers(previous)
    if assignments.ndim != 1 or (previous is not None and previous.shape != assignments.shape):
        shapes = [tuple(a.shape) for a in (assignments, previous) if a is not None]
        raise ValueError(f"assignments and previous must be (N,), got {shapes}")
    n = len(assignments)
    known = assignments >= 0
    sizes = _counted(torch.where(known, assignments.clamp_max(k), k + 1), k + 2)[:k]
    wanted = [assignments.amax() if n else sizes.new_zeros(()), (sizes == 0).sum(), sizes.min(), sizes.max()]
    if previous is not None:
        previous = previous.to(assignments.device)
        both = known & (previous >= 0)
        labels, then = torch.where(both, assignments.clamp_max(k), k + 1), _runs(previous, both)
        wanted += [both.sum(), ((assignments != previous) & both).sum()]
        joint = _runs(labels * (n + 1) + then[0], both)
        counts = [sizes, _counted(labels, k + 2)[:k], then[1], joint[1]]
    else:
        counts = [sizes]
    # All numbers in one copy, so that the host waits for a GPU only once. Counts are exact in float64.
    figures = torch.stack([value.double() for value in wanted] + [_entropy(part) for part in counts]).tolist()
    highest, n_empty, smallest, largest = (int(figure) for figure in figures[:4])
    if n and highest >= k:
        raise ValueError(f"assignments must be below k = {k}, got {highest}: pass the k they came from")
    change = nmi = None
    if previous is not None:
        n_both, n_changed, entropy, *entropies = figures[4:]
        change = n_changed / n_both if n_both else 0.0
        nmi = _nmi(*(value + 0.0 for value in entropies))
    else:
        entropy = figures[4]
    return ClusterStats(
        sizes=sizes,
        n_empty=n_empty,
        smallest=smallest,
        largest=largest,
        entropy=entropy + 0.0,  # turns -0.0 into 0.0
        effective_clusters=float(torch.tensor(entropy, dtype=torch.float64).exp()),
        change=change,
        nmi=nmi,
    )


def _integers(values: Array) -> Tensor:
    """The values as an int64 tensor."""
    tensor = as_tensor(values)
    if tensor.is_floating_point():
        raise TypeError(f"assignments must be integers, got {tensor.dtype}")
    return tensor.long()


def _counted(values: Tensor, n: int) -> Tensor:
    """How often each of 0, ..., n - 1 occurs in values: (n,) int64."""
    counts = torch.zeros(n, dtype=torch.int64, device=values.device)
    return counts.index_add_(0, values, torch.ones_like(values))


def _runs(values: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The rank (N,) of each value among the distinct values, and for each rank how many entries of `counted` (N,) bool
    have it: (N,) int64, padded with zeros so that no shape depends on values."""
    ordered, order = values.sort()
    starts = torch.ones_like(ordered)
    starts[1:] = ordered[1:] != ordered[:-1]
    place = starts.cumsum(0) - 1
    counts = torch.zeros_like(place).index_add_(0, place, counted[order].long())
    return torch.empty_like(place).index_copy_(0, order, place), counts


def _entropy(counts: Tensor) -> Tensor:
    """Entropy () float64, in nats, of counts (M,)."""
    if not _device.on_gpu(counts.device):
        counts = counts[counts > 0]
    share = counts.double() / counts.sum()
    return -torch.where(counts > 0, share * share.log(), 0).sum()


def _nmi(h_a: float, h_b: float, h_joint: float) -> float:
    """Normalised mutual information from the entropies of two clusterings and of both together."""
    if h_a == 0 and h_b == 0:
        return 1.0
    return min(1.0, max(0.0, 2 * (h_a + h_b - h_joint) / (h_a + h_b)))
