"""What a clustering looks like, and how far it moved since the last one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cluster_memory import _device


@dataclass(frozen=True)
class ClusterStats:
    """sizes (K,) int64; n_empty, smallest, largest: of all K clusters; entropy of the sizes in nats, in [0, log K];
    effective_clusters = exp(entropy), in [1, K]; change: share of samples in another cluster than before, in [0, 1];
    nmi: normalised mutual information with the clustering before, in [0, 1]. The last two are None without one."""

    sizes: Tensor
    n_empty: int
    smallest: int
    largest: int
    entropy: float
    effective_clusters: float
    change: float | None
    nmi: float | None


def cluster_stats(assignments: Tensor, k: int, previous: Tensor | None = None) -> ClusterStats:
    """Sizes, entropy and, against `previous`, change and NMI of a clustering.

    assignments, previous: (N,) int64; negative means unassigned and is left out (of both, for change and NMI).
    NMI is divided by the arithmetic mean of the entropies, as scikit-learn does; two clusterings with one cluster each
    have NMI 1. Raises ValueError if an assignment is k or more, or if the shapes differ."""
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
    # one copy to the host, which is all it waits for; counts are exact in float64
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
        entropy=entropy + 0.0,  # never -0.0
        effective_clusters=float(torch.tensor(entropy, dtype=torch.float64).exp()),
        change=change,
        nmi=nmi,
    )


def _counted(values: Tensor, n: int) -> Tensor:
    """How often each of 0 to n - 1 occurs, (n,) int64."""
    counts = torch.zeros(n, dtype=torch.int64, device=values.device)
    return counts.index_add_(0, values, torch.ones_like(values))


def _runs(values: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Rank (N,) of each value among the distinct ones, and how many counted (N,) bool there are of each: (N,) int64,
    with zeros, so that no shape depends on values."""
    ordered, order = values.sort()
    starts = torch.ones_like(ordered)
    starts[1:] = ordered[1:] != ordered[:-1]
    place = starts.cumsum(0) - 1
    counts = torch.zeros_like(place).index_add_(0, place, counted[order].long())
    return torch.empty_like(place).index_copy_(0, order, place), counts


def _entropy(counts: Tensor) -> Tensor:
    """Of counts (M,), in nats: () float64."""
    if not _device.on_gpu(counts.device):
        counts = counts[counts > 0]
    share = counts.double() / counts.sum()
    return -torch.where(counts > 0, share * share.log(), 0).sum()


def _nmi(h_a: float, h_b: float, h_joint: float) -> float:
    if h_a == 0 and h_b == 0:
        return 1.0
    return min(1.0, max(0.0, 2 * (h_a + h_b - h_joint) / (h_a + h_b)))
