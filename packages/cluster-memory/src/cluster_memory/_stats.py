"""What a clustering looks like, and how far it moved since the last one."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
    if len(assignments) and int(assignments.max()) >= k:
        raise ValueError(f"assignments must be below k = {k}, got {int(assignments.max())}: pass the k they came from")
    sizes = torch.bincount(assignments[assignments >= 0], minlength=k)
    entropy = _entropy(sizes)
    change = nmi = None
    if previous is not None:
        both = (assignments >= 0) & (previous >= 0)
        now, then = assignments[both], previous[both].to(assignments.device)
        change = float((now != then).double().mean()) if len(now) else 0.0
        nmi = _nmi(now, then)
    return ClusterStats(
        sizes=sizes,
        n_empty=int((sizes == 0).sum()),
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        entropy=entropy,
        effective_clusters=float(torch.tensor(entropy, dtype=torch.float64).exp()),
        change=change,
        nmi=nmi,
    )


def _entropy(counts: Tensor) -> float:
    """Of counts of any shape, in nats."""
    share = counts[counts > 0].double() / counts.sum()
    return float(-(share * share.log()).sum()) + 0.0  # + 0.0: never -0.0


def _nmi(a: Tensor, b: Tensor) -> float:
    _, a = torch.unique(a, return_inverse=True)
    _, b = torch.unique(b, return_inverse=True)
    _, joint = torch.unique(a * (len(b) + 1) + b, return_counts=True)
    h_a, h_b = _entropy(torch.bincount(a)), _entropy(torch.bincount(b))
    if h_a == 0 and h_b == 0:
        return 1.0
    mutual = h_a + h_b - _entropy(joint)
    return min(1.0, max(0.0, 2 * mutual / (h_a + h_b)))
