"""k-means on features, and how well clusters agree with labels.

N samples, K clusters, C classes."""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ._accuracy import as_labels
from ._arrays import Array, as_tensor
from ._neighbours import as_rows
from ._probe import NotFittedError, Probe, Scores, setting

_SCORES = 2**24  # distances that exist at a time: 64 MiB
_ROWS = 4096


class ClusterProbe(Probe):
    """k-means on unit-length features, scored against labels that the clustering never sees.

    Lloyd's algorithm from several k-means++ starts (Arthur & Vassilvitskii 2007), in float32 with sums in float64. A
    start ends when no assignment changes, or after `n_iters` iterations; the start with the lowest inertia is kept. An
    empty cluster takes the row that is farthest from its centroid.

    Args:
        k: Number of clusters K.
        seed: Seed of the starts.
        n_init: Number of starts.
        n_iters: Largest number of iterations of a start.

    Attributes:
        centroids_: (K, D) float32.
        assignments_: Cluster (N,) int64 of each training row.
        inertia_: Sum of squared distances of the unit rows to their centroids.

    Example:
        ```python
        probe = ClusterProbe(k=10).fit(x)
        probe.score(x, y)  # accuracy under the best one-to-one matching of clusters and classes
        probe.evaluate(x, y)  # {"k=10": {"nmi", "ari", "accuracy", "purity"}}
        ```
    """

    def __init__(self, k: int, *, seed: int = 0, n_init: int = 5, n_iters: int = 100) -> None:
        self.k = k
        self.seed = seed
        self.n_init = n_init
        self.n_iters = n_iters

    @torch.no_grad()
    def fit(self, x: Array, y: Array | None = None) -> Self:
        """Cluster the rows.

        Args:
            x: Features (N, D), any float dtype, N >= k.
            y: Ignored, as in scikit-learn.

        Returns:
            The probe itself.

        Raises:
            ValueError: If a shape or argument is invalid, or a row contains NaN or infinity.
        """
        if min(self.k, self.n_init, self.n_iters) < 1:
            raise ValueError(f"k, n_init, n_iters must be at least 1, got {self.k}, {self.n_init}, {self.n_iters}")
        x = as_rows(x, "x")
        if len(x) < self.k:
            raise ValueError(f"x has {len(x)} rows for k = {self.k} clusters: use k <= {len(x)}")
        with torch.autocast(x.device.type, enabled=False):
            unit = F.normalize(x.float(), dim=1)
            starts = (_lloyd(unit, self.k, [self.seed, i], self.n_iters) for i in range(self.n_init))
            self.inertia_, self.centroids_, self.assignments_ = min(starts, key=lambda found: found[0])
        return self

    def fit_predict(self, x: Array, y: Array | None = None) -> Tensor:
        """Cluster the rows and return `assignments_`; arguments as in `fit`."""
        return self.fit(x).assignments_

    @torch.no_grad()
    def predict(self, x: Array) -> Tensor:
        """Return the nearest centroid (M,) int64 of each row of x (M, D), on the device of x."""
        if not hasattr(self, "centroids_"):
            raise NotFittedError("this ClusterProbe has no centroids yet: call fit(x) first")
        x = as_rows(x, "x")
        with torch.autocast(x.device.type, enabled=False):
            return _assign(F.normalize(x.float(), dim=1), self.centroids_.to(x.device))[0]

    def score(self, x: Array, y: Array) -> float:
        """Return the accuracy, a fraction in [0, 1], under the best one-to-one matching of clusters and classes.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels (M,), any integers.
        """
        ((_, scores),) = self.evaluate(x, y).items()
        return scores["accuracy"]

    def evaluate(self, x: Array, y: Array) -> Scores:
        """Return the agreement of clusters and labels.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels (M,), any integers.

        Returns:
            {"k=10": {"nmi", "ari", "accuracy", "purity"}} as `cluster_scores` defines them.
        """
        return {setting("k", self.k): cluster_scores(self.predict(x), as_labels(y, len(x)))}


def cluster_scores(assignments: Array, y: Array) -> dict[str, float]:
    """Measure how well clusters agree with labels, on the CPU in float64.

    - nmi: mutual information divided by the arithmetic mean of the entropies, in [0, 1]; 1 if clusters and labels are
      both a single group.
    - ari: Rand index adjusted for chance (Hubert & Arabie 1985), at most 1, about 0 for independent groups.
    - accuracy: fraction of samples that are right under the best one-to-one matching of clusters and classes (Hungarian
      algorithm). Clusters in excess of the classes count as wrong.
    - purity: fraction of samples that are right if each cluster takes its most frequent class.

    Args:
        assignments: Cluster of each sample (N,), any integers except -100, which means unassigned.
        y: Label of each sample (N,), any integers.

    Returns:
        {"nmi", "ari", "accuracy", "purity"}.

    Raises:
        ValueError: If a shape is invalid, a sample is unassigned, or there are no samples.

    Example:
        ```python
        cluster_scores(probe.predict(x), y)["nmi"]
        ```
    """
    assignments = as_tensor(assignments)
    y = as_labels(y, len(assignments))
    if assignments.ndim != 1 or assignments.is_floating_point() or not len(assignments):
        raise ValueError(f"assignments must be (N,) integers, N >= 1, got {tuple(assignments.shape)}")
    if n_unassigned := int((assignments == -100).sum()):
        raise ValueError(f"{n_unassigned} samples are unassigned (-100): leave them out, of y as well")
    clusters, row = np.unique(assignments.cpu().numpy(), return_inverse=True)
    classes, column = np.unique(y.cpu().numpy(), return_inverse=True)
    cells = np.bincount(row * len(classes) + column, minlength=len(clusters) * len(classes))
    table = cells.reshape(len(clusters), len(classes)).astype(np.float64)  # samples by cluster and class
    n, sizes, frequencies = table.sum(), table.sum(1), table.sum(0)
    both = _entropy(sizes / n) + _entropy(frequencies / n)
    shared = both - _entropy(table.ravel() / n)
    pairs, in_clusters, in_classes = (_pairs(a) for a in (table, sizes, frequencies))
    expected = in_clusters * in_classes / max(1.0, _pairs(n))
    most = (in_clusters + in_classes) / 2
    return {
        "nmi": max(0.0, 2 * shared / both) if both > 0 else 1.0,
        "ari": float((pairs - expected) / (most - expected)) if most != expected else 1.0,
        "accuracy": float(table[linear_sum_assignment(table, maximize=True)].sum() / n),
        "purity": float(table.max(1).sum() / n),
    }


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1) / 2).sum())


def _lloyd(x: Tensor, k: int, key: list[int], n_iters: int) -> tuple[float, Tensor, Tensor]:
    """Run one start; return its inertia, centroids (K, D) and the assignments (N,) to these centroids."""
    centroids = _spread(x, k, key)
    assignments, distance = _assign(x, centroids)
    for _ in range(n_iters):
        sums = x.new_zeros(k, x.shape[1], dtype=torch.float64)
        for block, places in zip(x.split(_ROWS), assignments.split(_ROWS), strict=True):
            sums.index_add_(0, places, block.double())
        counts = assignments.bincount(minlength=k)
        centroids = (sums / counts.clamp(min=1)[:, None]).float()
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            centroids[empty] = x[distance.topk(len(empty)).indices]
        before = assignments
        assignments, distance = _assign(x, centroids)
        if torch.equal(assignments, before):
            break
    return float(distance.sum(dtype=torch.float64)), centroids, assignments


def _assign(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centroid and the squared distance to it, (N,) each; ties go to the smaller index."""
    offset = centroids.square().sum(1)
    nearest = []
    for block in x.split(max(1, _SCORES // len(centroids))):
        score = torch.addmm(offset, block, centroids.T, alpha=-2)  # squared distance without the term |x|^2
        least = score.min(1)
        nearest.append((least.indices, (least.values + block.square().sum(1)).clamp(min=0)))
    indices, distances = zip(*nearest, strict=True)
    return torch.cat(indices), torch.cat(distances)


def _spread(x: Tensor, k: int, key: list[int]) -> Tensor:
    """Draw k rows of x by k-means++: in proportion to the squared distance to the nearest row drawn so far."""
    draws = np.random.default_rng(key).random(k).tolist()
    chosen = [int(draws[0] * len(x))]
    distance = x.new_full((len(x),), torch.inf)
    for draw in draws[1:]:
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
        mass = distance.double().cumsum(0)
        chosen.append(min(int(torch.searchsorted(mass, draw * mass[-1], right=True)), len(x) - 1))
    return x[chosen]
