"""k-means (Lloyd 1982) over rows in blocks: exact, seeded, no empty cluster, assignments that fit the centroids."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from cluster_memory._assign import Assignment, block_rows, fused_loops, nearest_of
from cluster_memory._errors import NotFinite
from cluster_memory._faiss import Engine, iterate
from cluster_memory._kmeans_init import plus_plus_rows, random_rows
from cluster_memory._kmeans_repair import fill_clusters, split_clusters
from cluster_memory._nearest import Columns, Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._sources import Matrix, Source

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
    n_repaired: how many times an empty cluster was filled. n_iter: how many times the centroids were updated.
    rechecked: share of rows, over all assignments, that a coarse product did not decide alone; 0 where none is used.
    engine: what updated the centroids: "torch", "faiss-cpu" or "faiss-gpu"."""

    centroids: Tensor
    assignments: Tensor
    counts: Tensor
    inertia: float
    inertia_per_iter: tuple[float, ...]
    n_repaired: int
    n_iter: int
    rechecked: float
    engine: Engine = "torch"


class KMeans:
    """k-means on all rows given, without subsampling (methods: Lloyd 1982; k-means++: Arthur & Vassilvitskii 2007).

    k: clusters, 1 <= k <= N. metric: "euclidean", or "cosine" (spherical: rows and centroids are made unit).
    n_iters: updates of the centroids at most, >= 0. n_init: restarts, the one with least inertia wins.
    init: "random" (k distinct rows), "k-means++" (k passes over x) or a tensor (K, D).
    empty: "split" leaves no cluster empty wherever K rows differ; "keep" leaves an empty cluster's centroid in place.
    seed: the only source of randomness. group: ranks that each hold a part of the rows.

    Distances are float32 in safe coordinates (centred and scaled where it matters), sums float64. Two ranks equal one
    process on the concatenated rows up to the order of float additions: the same rows are drawn, sums are float64, ties
    may fall otherwise. Repeatable on one kind of device.
    Memory besides x: 12 N bytes; N (D + 12) more for rows in memory on a CPU with int8 products, twice that with
    bfloat16 ones; without either, a float32 copy of x where that is below 64 MiB; up to 32 MiB of scratch a thread
    (1 GiB on a GPU), 28 K D bytes; never N x K.
    backend: "auto" is torch; "faiss" leaves the iterations to faiss, on a GPU if x and faiss-gpu are there, and torch
    assigns the rows at the end; the result says which it was (`engine`).
    Large arrays on a CPU are read by as many threads as torch has (`torch.get_num_threads()`), each of which keeps to
    one core; which is done first changes no bit. With numba installed, long fits use compiled loops: the same result,
    but for ties within rounding."""

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
        if backend == "faiss" and group is not None:
            raise ValueError("backend='faiss' knows no group: use backend='torch'")
        if not isinstance(init, Tensor):
            _one_of("init", init, ("random", "k-means++"))
        elif init.ndim != 2 or len(init) != k:
            raise ValueError(f"init must be (K, D) with K = {k}, got {tuple(init.shape)}")
        elif not init.isfinite().all():
            raise NotFinite("init must be finite, got centroids with NaN or infinity: look at where they come from")
        elif n_init > 1:
            raise ValueError(f"given centroids leave nothing to draw: use n_init=1, got {n_init}")
        self.k, self.metric, self.n_iters, self.n_init, self.init = k, metric, n_iters, n_init, init
        self.empty, self.seed, self.backend, self.group = empty, seed, backend, group
        self._fitted: tuple[Frame, Tensor] | None = None

    def fit(self, x: Matrix) -> KMeansResult:
        """Cluster the rows of x (N, D): a tensor on any device, an array, a memory map, a DLPack object, an object with
        `shape` and slices of rows, or a function that starts a pass over blocks (n_i, D); floats of any width.

        Raises ValueError if N < k, and NotFinite if a row is not finite (the first ones are named). Collective with
        `group`."""
        ranks = Ranks(self.group)
        rows = self._rows(x, ranks)
        if rows.n_total < self.k:
            raise ValueError(f"k = {self.k} clusters need as many rows, got {rows.n_total}: use k <= {rows.n_total}")
        if isinstance(self.init, Tensor) and self.init.shape[1] != rows.dim:
            raise ValueError(f"init and x must have rows of one length, got {self.init.shape[1]} and {rows.dim}")
        frame = Frame.of(rows, self.metric, ranks)
        generator = torch.Generator().manual_seed(self.seed)
        results = (self._run(rows, frame, ranks, generator) for _ in range(self.n_init))
        result = min(results, key=lambda run: run.inertia)
        self._fitted = frame, result.centroids
        return result

    def predict(self, x: Matrix) -> Tensor:
        """Nearest centroid (N,) int64 of each row of x (N, D), after a fit; the rows of this process only."""
        rows, frame, places = self._after_fit(x)
        labels = torch.empty(rows.n, dtype=torch.int64, device=rows.device)
        nearest = nearest_of(places, frame.cosine, fused_loops(rows, self.k))
        for part, block in rows:
            labels[part] = nearest(frame.enter(block))[1]
        return labels

    def transform(self, x: Matrix) -> Tensor:
        """Distances (N, K) float32 of each row of x (N, D) to each centroid: euclidean, or 1 - cosine.

        The one method whose memory is N x K. Zero rows have no direction: their cosine distance is 0."""
        rows, frame, places = self._after_fit(x)
        distances = torch.empty(rows.n, self.k, device=rows.device)
        every = Nearest(places, frame.cosine)
        for part, block in rows:
            columns = Columns.of(frame.enter(block))
            distances[part] = every.distance(columns.squares, every.scores(columns)).T
        return distances if frame.cosine else distances.sqrt_().div_(frame.scale)

    def _after_fit(self, x: Matrix) -> tuple[Rows, Frame, Tensor]:
        """Rows of x, and the frame and the centroids (K, D) in it, on the device of x."""
        if self._fitted is None:
            raise RuntimeError("predict and transform need centroids: call fit first")
        frame, centroids = self._fitted
        rows = self._rows(x, Ranks(None))
        if rows.dim != centroids.shape[1]:
            raise ValueError(f"x must have rows of length {centroids.shape[1]}, got {rows.dim}")
        frame = replace(frame, shift=frame.shift.to(rows.device))
        return rows, frame, frame.enter(centroids.to(rows.device))

    def _rows(self, x: Matrix, ranks: Ranks) -> Rows:
        source = Source(x)
        rows = Rows(source, block_rows(self.k, source.dim, source.device, _BLOCK_BYTES), ranks)
        rows.check_finite()
        return rows

    def _first(self, rows: Rows, frame: Frame, ranks: Ranks, generator: torch.Generator) -> Tensor:
        if isinstance(self.init, Tensor):
            return self.init.detach().to(rows.device, torch.float32, copy=True)
        if self.init == "random":
            chosen = rows.take(random_rows(rows, self.k, generator))
        else:
            chosen = rows.take(plus_plus_rows(rows, frame, ranks, self.k, generator))
        return frame.enter(chosen) if frame.cosine else chosen

    def _run(self, rows: Rows, frame: Frame, ranks: Ranks, generator: torch.Generator) -> KMeansResult:
        start = self._first(rows, frame, ranks, generator)
        if self.backend != "faiss":
            return self._lloyd(rows, frame, ranks, start, self.n_iters)
        found = iterate(rows, frame, start, self.n_iters)
        result = self._lloyd(rows, frame, ranks, found.centroids, 0)  # assigns, repairs and measures
        return replace(result, inertia_per_iter=found.history, n_iter=len(found.history), engine=found.engine)

    def _lloyd(self, rows: Rows, frame: Frame, ranks: Ranks, centroids: Tensor, n_iters: int) -> KMeansResult:
        assigned = Assignment(rows, self.k, frame, ranks)
        history: list[float] = []
        n_repaired = n_iter = 0
        while n_iter < n_iters:
            changed, sums = assigned.update(centroids)
            history.append(assigned.inertia())
            counts = assigned.counts(self.k)
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
                n_repaired += split_clusters(means, counts, assigned.labels, assigned.distance, rows, frame, ranks)
            centroids = frame.leave(means)
            n_iter += 1
        else:
            assigned.update(centroids, wants_sums=False)
        if self.empty == "split" and not assigned.counts(self.k).all():
            assigned.distance, n_moved = fill_clusters(centroids, assigned.labels, rows, frame, ranks)
            n_repaired += n_moved
        unit = 1.0 if frame.cosine else frame.scale**-2
        return KMeansResult(
            centroids,
            assigned.labels,
            assigned.counts(self.k),
            assigned.inertia() * unit,
            tuple(value * unit for value in history),
            n_repaired,
            n_iter,
            assigned.rechecked(),
        )


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
