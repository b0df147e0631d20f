"""k-means on features, and how well clusters agree with labels.

N samples, K clusters, C classes."""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ._accuracy import check_labels
from ._neighbours import check_rows

_SCORES = 2**24  # distances that exist at a time: 64 MiB
_ROWS = 4096


class ClusterProbe:
    """k-means with K = k on unit features, scored against labels that it never sees.

    Lloyd's iterations on float32 rows with sums in float64, from n_init starts by k-means++ (Arthur & Vassilvitskii
    2007), until no assignment changes or n_iters are done; the start of least inertia is kept. A cluster that runs
    empty takes the row farthest from its centroid. Raises ValueError if k, n_init or n_iters is not positive."""

    def __init__(self, k: int, seed: int = 0, *, n_init: int = 5, n_iters: int = 100) -> None:
        if min(k, n_init, n_iters) < 1:
            raise ValueError(f"k, n_init, n_iters must be at least 1, got {k}, {n_init}, {n_iters}")
        self.k, self.seed, self.n_init, self.n_iters = k, seed, n_init, n_iters

    @torch.no_grad()
    def fit(self, x: Tensor) -> Self:
        """Cluster the rows of x (N, D) float, N >= k.

        Sets centroids_ (K, D) float32, inertia_ (sum of squared distances of unit rows) and assignments_ (N,)."""
        check_rows(x, "x")
        if len(x) < self.k:
            raise ValueError(f"x has {len(x)} rows for k = {self.k} clusters: use k <= {len(x)}")
        with torch.autocast(x.device.type, enabled=False):
            unit = F.normalize(x.float(), dim=1)
            starts = (_lloyd(unit, self.k, [self.seed, i], self.n_iters) for i in range(self.n_init))
            self.inertia_, self.centroids_, self.assignments_ = min(starts, key=lambda found: found[0])
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Nearest centroid (M,) int64 of each row of x (M, D)."""
        if not hasattr(self, "centroids_"):
            raise ValueError("this ClusterProbe has no centroids yet: call fit(x) first")
        check_rows(x, "x")
        with torch.autocast(x.device.type, enabled=False):
            return _assign(F.normalize(x.float(), dim=1), self.centroids_.to(x.device))[0]

    def score(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """`cluster_scores` of the clusters of x (M, D) and its labels y (M,)."""
        check_labels(y, len(x))
        return cluster_scores(self.predict(x), y)


def cluster_scores(assignments: Tensor, y: Tensor) -> dict[str, float]:
    """Agreement of assignments (N,) with labels y (N,), both any integers: {"nmi", "ari", "accuracy", "purity"}.

    nmi: mutual information over the arithmetic mean of the entropies, in [0, 1]; 1 where both are a single group.
    ari: Rand index adjusted for chance (Hubert & Arabie 1985), at most 1, about 0 for independent groups. accuracy:
    fraction right under the best one-to-one matching of clusters and classes (Hungarian); clusters beyond C count as
    wrong. purity: fraction right if each cluster takes its commonest class. Computed on the CPU in float64.
    Raises ValueError for unassigned samples (-100), or no samples."""
    check_labels(y, len(assignments))
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
    """Inertia, centroids (K, D) and assignments (N,) of one start; assignments belong to the centroids."""
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
    """Nearest centroid and squared distance to it (N,); equal distances go to the smaller index."""
    offset = centroids.square().sum(1)
    nearest = []
    for block in x.split(max(1, _SCORES // len(centroids))):
        score = torch.addmm(offset, block, centroids.T, alpha=-2)  # squared distance, less |x|^2
        least = score.min(1)
        nearest.append((least.indices, (least.values + block.square().sum(1)).clamp(min=0)))
    indices, distances = zip(*nearest, strict=True)
    return torch.cat(indices), torch.cat(distances)


def _spread(x: Tensor, k: int, key: list[int]) -> Tensor:
    """k rows of x by k-means++: each drawn in proportion to its squared distance from those before."""
    draws = np.random.default_rng(key).random(k).tolist()
    chosen = [int(draws[0] * len(x))]
    distance = x.new_full((len(x),), torch.inf)
    for draw in draws[1:]:
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
        mass = distance.double().cumsum(0)
        chosen.append(min(int(torch.searchsorted(mass, draw * mass[-1], right=True)), len(x) - 1))
    return x[chosen]
