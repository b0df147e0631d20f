"""k-means (Lloyd 1982) over rows in blocks: exact, seeded, no empty cluster, assignments that fit the centroids."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from cluster_memory import _faiss
from cluster_memory._kmeans_init import plus_plus_rows, random_rows
from cluster_memory._kmeans_repair import fill_clusters, split_clusters
from cluster_memory._nearest import Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Matrix, Rows

# Scratch of one block: K scores and a few copies of a row for each row in it.
_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class KMeansResult:
    """What a fit found. N rows are those of this rank; everything else is over all ranks.

    centroids (K, D) float32, means of their members as of the last iteration (unit rows for cosine).
    assignments (N,) int64: the nearest of these very centroids, ties to the lower index.
    counts (K,) int64: members of each cluster under `assignments`.
    inertia: sum of squared distances to the own centroid, or of 1 - cosine.
    inertia_per_iter: the same before each update of the centroids; shorter than n_iters if nothing changed any more.
    n_repaired: how many times an empty cluster was filled."""

    centroids: Tensor
    assignments: Tensor
    counts: Tensor
    inertia: float
    inertia_per_iter: tuple[float, ...]
    n_repaired: int


class KMeans:
    """k-means on all rows given, without subsampling (methods: Lloyd 1982; k-means++: Arthur & Vassilvitskii 2007).

    k: clusters, 1 <= k <= N. metric: "euclidean", or "cosine" (spherical: rows and centroids are made unit).
    n_iters: updates of the centroids at most, >= 0. n_init: restarts, the one with least inertia wins.
    init: "random" (k distinct rows), "k-means++" (k passes over x) or a tensor (K, D).
    empty: "split" leaves no cluster empty wherever K rows differ; "keep" leaves an empty cluster's centroid in place.
    seed: the only source of randomness. group: ranks that each hold a part of the rows.

    Distances are float32 in centred, scaled coordinates, sums float64. Two ranks equal one process on the concatenated
    rows up to the order of float additions: the same rows are drawn, sums are float64, ties may fall otherwise.
    Memory besides x: 12 N bytes, 16 MiB of scratch, 28 K D bytes; never N x K. Repeatable on one kind of device."""

    def __init__(
        self,
        k: int,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        n_iters: int = 20,
        n_init: int = 1,
        init: Literal["random", "k-means++"] | Tensor = "random",
        empty: Literal["split", "keep"] = "split",
        seed: int = 0,
        backend: Literal["auto", "torch", "faiss"] = "auto",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if k < 1 or n_iters < 0 or n_init < 1:
            raise ValueError(f"expected k >= 1, n_iters >= 0, n_init >= 1, got {k}, {n_iters}, {n_init}")
        _one_of("metric", metric, ("euclidean", "cosine"))
        _one_of("empty", empty, ("split", "keep"))
        _one_of("backend", backend, ("auto", "torch", "faiss"))
        if not isinstance(init, Tensor):
            _one_of("init", init, ("random", "k-means++"))
        elif init.ndim != 2 or len(init) != k or not init.isfinite().all():
            raise ValueError(f"init must be finite and (K, D) with K = {k}, got {tuple(init.shape)}")
        elif n_init > 1:
            raise ValueError(f"given centroids leave nothing to draw: use n_init=1, got {n_init}")
        self.k, self.metric, self.n_iters, self.n_init, self.init = k, metric, n_iters, n_init, init
        self.empty, self.seed, self.backend, self.group = empty, seed, backend, group
        self._fitted: tuple[Frame, Tensor] | None = None

    def fit(self, x: Matrix) -> KMeansResult:
        """Cluster the rows of x (N, D): a tensor on any device, an array or a memory map; floats of any width.

        Raises ValueError if N < k, or if a row is not finite (the first ones are named). Collective with `group`."""
        ranks = Ranks(self.group)
        rows = self._rows(x, ranks)
        if rows.n_total < self.k:
            raise ValueError(f"k = {self.k} clusters need as many rows, got {rows.n_total}: use k <= {rows.n_total}")
        if isinstance(self.init, Tensor) and self.init.shape[1] != rows.dim:
            raise ValueError(f"init and x must have rows of one length, got {self.init.shape[1]} and {rows.dim}")
        frame = Frame.of(rows, self.metric, ranks)
        if self.backend == "faiss":
            result = _faiss.fit(self, rows, frame)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            runs = (self._lloyd(rows, frame, ranks, generator) for _ in range(self.n_init))
            result = min(runs, key=lambda run: run.inertia)
        self._fitted = frame, result.centroids
        return result

    def predict(self, x: Matrix) -> Tensor:
        """Nearest centroid (N,) int64 of each row of x (N, D), after a fit; the rows of this process only."""
        if self._fitted is None:
            raise RuntimeError("predict needs centroids: call fit first")
        frame, centroids = self._fitted
        rows = self._rows(x, Ranks(None))
        if rows.dim != centroids.shape[1]:
            raise ValueError(f"x must have rows of length {centroids.shape[1]}, got {rows.dim}")
        frame = Frame(frame.cosine, frame.shift.to(rows.device), frame.scale)
        nearest = Nearest(frame.enter(centroids.to(rows.device)), frame.cosine)
        labels = [nearest(frame.enter(block))[1] for _, block in rows]
        return torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64, device=rows.device)

    def _rows(self, x: Matrix, ranks: Ranks) -> Rows:
        dim = x.shape[-1] if x.ndim else 1
        rows = Rows(x, max(1, _BLOCK_BYTES // (4 * self.k + 20 * dim)), ranks)
        rows.check_finite()
        return rows

    def _first(self, rows: Rows, frame: Frame, ranks: Ranks, generator: torch.Generator) -> Tensor:
        if isinstance(self.init, Tensor):
            return self.init.to(rows.device, torch.float32, copy=True)
        if self.init == "random":
            chosen = rows.take(random_rows(rows, self.k, generator))
        else:
            chosen = rows.take(plus_plus_rows(rows, frame, ranks, self.k, generator))
        return frame.enter(chosen) if frame.cosine else chosen

    def _lloyd(self, rows: Rows, frame: Frame, ranks: Ranks, generator: torch.Generator) -> KMeansResult:
        centroids = self._first(rows, frame, ranks, generator)
        labels = torch.full((rows.n,), -1, device=rows.device)
        distance = torch.empty(rows.n, device=rows.device)
        history: list[float] = []
        n_repaired = 0
        for _ in range(self.n_iters):
            changed, sums = self._assign(rows, frame, ranks, centroids, labels, distance)
            history.append(_total(distance, ranks))
            counts = ranks.sum(torch.bincount(labels, minlength=self.k))
            if not changed and (self.empty == "keep" or counts.all()):
                break  # the same members give the same means
            means = frame.enter(centroids).double()
            filled = counts > 0
            means[filled] = sums[filled] / counts[filled, None]
            if frame.cosine:  # members that cancel out have no mean direction: keep the last one
                lost = torch.linalg.vector_norm(means, dim=1) < 1e-7
                means[lost] = frame.enter(centroids)[lost].double()
                means = torch.nn.functional.normalize(means, dim=1)
            if self.empty == "split" and not counts.all():
                n_repaired += split_clusters(means, counts, labels, distance, rows, frame, ranks)
            centroids = frame.leave(means)
        else:
            self._assign(rows, frame, ranks, centroids, labels, distance)
        if self.empty == "split" and not ranks.sum(torch.bincount(labels, minlength=self.k)).all():
            distance, n_moved = fill_clusters(centroids, labels, rows, frame, ranks)
            n_repaired += n_moved
        counts = ranks.sum(torch.bincount(labels, minlength=self.k))
        unit = 1.0 if frame.cosine else frame.scale**-2
        inertia = [value * unit for value in (*history, _total(distance, ranks))]
        return KMeansResult(centroids, labels, counts, inertia[-1], tuple(inertia[:-1]), n_repaired)

    def _assign(
        self, rows: Rows, frame: Frame, ranks: Ranks, centroids: Tensor, labels: Tensor, distance: Tensor
    ) -> tuple[bool, Tensor]:
        """Write labels (N,) and distances (N,); return whether any label changed, and the sums (K, D) float64."""
        nearest = Nearest(frame.enter(centroids), frame.cosine)
        sums = torch.zeros(centroids.shape, dtype=torch.float64, device=rows.device)
        changed = torch.zeros((), dtype=torch.int64, device=rows.device)
        for part, block in rows:
            entered = frame.enter(block)
            distance[part], index = nearest(entered)
            changed += (labels[part] != index).sum()
            labels[part] = index
            add_rows(sums, index, entered.double())
        return bool(ranks.sum(changed)), ranks.sum(sums)


def add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> None:
    """sums[index] += rows in place, repeatably: index_add_ races on a GPU, index_put_ sorts there."""
    if sums.is_cuda:
        sums.index_put_((index,), rows, accumulate=True)
    else:
        sums.index_add_(0, index, rows)


def _total(distance: Tensor, ranks: Ranks) -> float:
    return float(ranks.sum(distance.sum(dtype=torch.float64)))


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
