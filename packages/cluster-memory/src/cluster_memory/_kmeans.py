"""k-means (Lloyd 1982) on all rows of a matrix, read block by block.

Start with `KMeans._lloyd`, the main loop."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from cluster_memory._assign import Assignment, block_rows, nearest_of, numba_loops
from cluster_memory._errors import NotFinite
from cluster_memory._estimator import Estimator
from cluster_memory._faiss import Engine, iterate
from cluster_memory._kmeans_init import plus_plus_rows, random_rows
from cluster_memory._kmeans_repair import fill_clusters, split_clusters
from cluster_memory._nearest import Columns, Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._sources import Matrix, Source, as_tensor

# Scratch memory for one block of rows: K scores and a few copies of each row.
_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class _Fitted:
    """Result of one run. `KMeans` shows each field as an attribute with a trailing underscore."""

    centroids: Tensor
    assignments: Tensor
    counts: Tensor
    inertia: float
    inertia_per_iter: tuple[float, ...]
    n_repaired: int
    n_iters: int
    rechecked: float
    engine: Engine = "torch"


class KMeans(Estimator):
    """k-means on all rows, without subsampling.

    Lloyd's algorithm (Lloyd 1982) from random rows, from k-means++ rows (Arthur & Vassilvitskii 2007) or from given
    centroids. Distances are float32, in coordinates that are centred and scaled where float32 needs it; sums are
    float64. `seed` is the only source of randomness: the same seed gives the same result on the same kind of device.

    With `group`, each rank passes its part of the rows and all ranks get the same centroids. The result equals that of
    one process on all rows, up to the order of float additions and ties within rounding.

    Memory is never N x K, except in `transform`. The README gives the bytes a fit needs, and how the nearest centroid
    is found on each device.

    Args:
        k: Number of clusters K, from 1 to the number of rows N.
        metric: "euclidean", or "cosine" for spherical k-means, which scales rows and centroids to unit length.
        n_iters: Maximum number of centroid updates, at least 0.
        n_init: Number of restarts; the one with the lowest inertia is kept.
        init: "random" (K distinct rows), "k-means++" (K passes over the rows), or a tensor or array (K, D).
        empty: "split" fills empty clusters, so that none is empty if at least K rows differ. "keep" leaves the
            centroid of an empty cluster where it was.
        seed: Seed of all random draws.
        backend: "auto" and "torch" use torch. "faiss" leaves the iterations to faiss, on a GPU if the rows are on one
            and faiss-gpu is installed; torch then makes the final assignment.
        group: Process group whose ranks each hold a part of the rows. None means this process alone.

    Attributes:
        centroids_: (K, D) float32 tensor on the device of the rows. Unit rows for "cosine".
        assignments_: (N,) int64 tensor: the nearest of `centroids_` for each row of this rank. Ties go to the lower
            index.
        counts_: (K,) int64 tensor: rows in each cluster, over all ranks.
        inertia_: Sum over all ranks of the squared distances to the nearest centroid, or of 1 - cosine.
        inertia_per_iter_: Inertia before each update of the centroids. Shorter than `n_iters` if the fit converged.
        n_iters_: Number of centroid updates made.
        n_repaired_: How many times an empty cluster was filled.
        rechecked_: Share of row assignments, over all iterations, that the coarse product alone could not decide; 0
            where no coarse product is used.
        engine_: What updated the centroids: "torch", "faiss-cpu" or "faiss-gpu".

    Raises:
        ValueError: If an argument is out of range.
        NotFinite: If `init` holds NaN or infinity.

    Example:
        ```python
        kmeans = KMeans(k=1000, metric="cosine", seed=0).fit(features)
        kmeans.assignments_, kmeans.centroids_, kmeans.inertia_
        kmeans.predict(new_features)
        ```
    """

    centroids_: Tensor
    assignments_: Tensor
    counts_: Tensor
    inertia_: float
    inertia_per_iter_: tuple[float, ...]
    n_repaired_: int
    n_iters_: int
    rechecked_: float
    engine_: Engine

    def __init__(
        self,
        k: int,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        n_iters: int = 20,
        *,
        n_init: int = 1,
        init: Literal["random", "k-means++"] | Tensor | NDArray[np.floating] = "random",
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
            raise ValueError("backend='faiss' does not support a process group: use backend='torch'")
        if not isinstance(init, Tensor | np.ndarray):
            _one_of("init", init, ("random", "k-means++"))
        elif init.ndim != 2 or len(init) != k:
            raise ValueError(f"init must be (K, D) with K = {k}, got {tuple(init.shape)}")
        elif not as_tensor(init).isfinite().all():
            raise NotFinite("init must be finite, got centroids with NaN or infinity: check how they were computed")
        elif n_init > 1:
            raise ValueError(f"restarts from given centroids would all be the same: use n_init=1, got {n_init}")
        self.k, self.metric, self.n_iters, self.n_init, self.init = k, metric, n_iters, n_init, init
        self.empty, self.seed, self.backend, self.group = empty, seed, backend, group
        self._frame: Frame | None = None  # None before the first fit

    def fit(self, x: Matrix) -> "KMeans":
        """Clusters the rows of x. A collective call if the estimator has a `group`.

        Args:
            x: (N, D) float16, bfloat16, float32 or float64: a tensor on any device, a NumPy array, a memory map, a
                DLPack object, an object with `shape` and slices of rows (h5py, zarr), or a function that returns a new
                pass over blocks (n_i, D).

        Returns:
            The estimator itself, with the fitted attributes set. Tensors are on the device of x, on the CPU for
            anything but tensors and DLPack objects.

        Raises:
            ValueError: If there are fewer than k rows, or rows and `init` differ in length.
            TypeError: If x does not hold floats, or cannot be read more than once.
            NotFinite: If x holds NaN or infinity; the message names the first such rows.
        """
        ranks = Ranks(self.group)
        rows = self._rows(x, ranks)
        if rows.n_total < self.k:
            raise ValueError(f"k = {self.k} clusters need as many rows, got {rows.n_total}: use k <= {rows.n_total}")
        if not isinstance(self.init, str) and self.init.shape[1] != rows.dim:
            raise ValueError(f"init and x must have rows of one length, got {self.init.shape[1]} and {rows.dim}")
        frame = Frame.of(rows, self.metric, ranks)
        generator = torch.Generator().manual_seed(self.seed)
        runs = (self._run(rows, frame, ranks, generator) for _ in range(self.n_init))
        best = min(runs, key=lambda run: run.inertia)
        self._frame = frame
        for name, value in vars(best).items():
            setattr(self, f"{name}_", value)
        return self

    def fit_predict(self, x: Matrix) -> Tensor:
        """Clusters the rows of x and returns `assignments_`.

        Args:
            x: (N, D) floats, as for `fit`.

        Returns:
            (N,) int64 tensor of clusters.
        """
        return self.fit(x).assignments_

    def fit_transform(self, x: Matrix) -> Tensor:
        """Clusters the rows of x and returns their distances to all centroids. Needs N x K memory.

        Args:
            x: (N, D) floats, as for `fit`.

        Returns:
            (N, K) float32 tensor, as from `transform`.
        """
        return self.fit(x).transform(x)

    def predict(self, x: Matrix) -> Tensor:
        """Finds the nearest centroid of each row. Never a collective call: only this process's rows are read.

        Args:
            x: (N, D) floats, as for `fit`.

        Returns:
            (N,) int64 tensor on the device of x (CPU for arrays).

        Raises:
            RuntimeError: If the estimator is not fitted.
            ValueError: If rows do not have the length of the centroids.
            NotFinite: If x holds NaN or infinity.
        """
        rows, frame, framed = self._after_fit(x)
        labels = torch.empty(rows.n, dtype=torch.int64, device=rows.device)
        nearest = nearest_of(framed, frame.cosine, numba_loops(rows, self.k))
        for part, block in rows:
            labels[part] = nearest(frame.enter(block))[1]
        return labels

    def transform(self, x: Matrix) -> Tensor:
        """Distances of each row to each centroid. Never a collective call.

        This is the one method whose memory grows with N x K: the result takes 4 N K bytes.

        Args:
            x: (N, D) floats, as for `fit`.

        Returns:
            (N, K) float32 tensor on the device of x (CPU for arrays): euclidean distances, or 1 - cosine. An all-zero
            row has no direction; its cosine distance to every centroid is 0.

        Raises:
            RuntimeError: If the estimator is not fitted.
            ValueError: If rows do not have the length of the centroids.
            NotFinite: If x holds NaN or infinity.
        """
        rows, frame, framed = self._after_fit(x)
        distances = torch.empty(rows.n, self.k, device=rows.device)
        nearest = Nearest(framed, frame.cosine)
        for part, block in rows:
            columns = Columns.of(frame.enter(block))
            distances[part] = nearest.distance(columns.squares, nearest.scores(columns)).T
        return distances if frame.cosine else distances.sqrt_().div_(frame.scale)

    def _after_fit(self, x: Matrix) -> tuple[Rows, Frame, Tensor]:
        """The rows of x, the frame, and the centroids (K, D) in the frame, all on the device of x."""
        if self._frame is None:
            raise RuntimeError("predict and transform need centroids: call fit first")
        rows = self._rows(x, Ranks(None))
        if rows.dim != self.centroids_.shape[1]:
            raise ValueError(f"x must have rows of length {self.centroids_.shape[1]}, got {rows.dim}")
        frame = replace(self._frame, shift=self._frame.shift.to(rows.device))
        return rows, frame, frame.enter(self.centroids_.to(rows.device))

    def _rows(self, x: Matrix, ranks: Ranks) -> Rows:
        source = Source(x)
        rows = Rows(source, block_rows(self.k, source.dim, source.device, _BLOCK_BYTES), ranks)
        rows.check_finite()
        return rows

    def _first(self, rows: Rows, frame: Frame, ranks: Ranks, generator: torch.Generator) -> Tensor:
        """First centroids (K, D) float32, a copy that the iterations may edit."""
        if not isinstance(self.init, str):
            return as_tensor(self.init).detach().to(rows.device, torch.float32, copy=True)
        if self.init == "random":
            chosen = rows.take(random_rows(rows, self.k, generator))
        else:
            chosen = rows.take(plus_plus_rows(rows, frame, ranks, self.k, generator))
        return frame.enter(chosen) if frame.cosine else chosen

    def _run(self, rows: Rows, frame: Frame, ranks: Ranks, generator: torch.Generator) -> _Fitted:
        """One restart with either backend."""
        start = self._first(rows, frame, ranks, generator)
        if self.backend != "faiss":
            return self._lloyd(rows, frame, ranks, start, self.n_iters)
        found = iterate(rows, frame, start, self.n_iters)
        # no update here: only the final assignment, the repair of empty clusters and the inertia
        result = self._lloyd(rows, frame, ranks, found.centroids, 0)
        return replace(result, inertia_per_iter=found.history, n_iters=len(found.history), engine=found.engine)

    def _lloyd(self, rows: Rows, frame: Frame, ranks: Ranks, centroids: Tensor, n_iters: int) -> _Fitted:
        """Lloyd's loop from centroids (K, D), with at most n_iters updates."""
        assigned = Assignment(rows, self.k, frame, ranks)
        history: list[float] = []
        n_repaired = n_updates = 0
        while n_updates < n_iters:
            changed, sums = assigned.update(centroids)
            history.append(assigned.inertia())
            counts = assigned.counts(self.k)
            if not changed and (self.empty == "keep" or counts.all()):
                break  # the same members would give the same means
            means = frame.enter(centroids).double()
            filled = counts > 0
            means[filled] = sums[filled] / counts[filled, None]
            if frame.cosine:
                # members that cancel out have no mean direction: their cluster keeps its last centroid
                lost = torch.linalg.vector_norm(means, dim=1) < 1e-7
                means[lost] = frame.enter(centroids)[lost].double()
                means = torch.nn.functional.normalize(means, dim=1)
            if self.empty == "split" and not counts.all():
                n_repaired += split_clusters(means, counts, assigned.labels, assigned.distance, rows, frame, ranks)
            centroids = frame.leave(means)
            n_updates += 1
        else:
            assigned.update(centroids, wants_sums=False)
        if self.empty == "split" and not assigned.counts(self.k).all():
            assigned.distance, n_moved = fill_clusters(centroids, assigned.labels, rows, frame, ranks)
            n_repaired += n_moved
        unit = 1.0 if frame.cosine else frame.scale**-2  # from squared distances in the frame to those of the data
        return _Fitted(
            centroids,
            assigned.labels,
            assigned.counts(self.k),
            assigned.inertia() * unit,
            tuple(value * unit for value in history),
            n_repaired,
            n_updates,
            assigned.rechecked(),
        )


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
