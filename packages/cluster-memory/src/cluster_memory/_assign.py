"""The assignment step: every row to its nearest centroid, by the fastest exact way on its device."""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from cluster_memory._nearest import Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._screen import Screened, coarse_dtype, is_worth_it


def nearest_of(centroids: Tensor, cosine: bool) -> Nearest | Screened:
    """What maps float32 rows (B, D) to distances (B,) and indices (B,) of the nearest centroids (K, D)."""
    dtype = coarse_dtype()
    if not centroids.is_cuda and dtype is not None and is_worth_it(*centroids.shape):
        return Screened(centroids, cosine, dtype)
    if centroids.is_cuda and importlib.util.find_spec("triton"):
        from cluster_memory._triton_nearest import TritonNearest

        return TritonNearest(centroids, cosine)
    return Nearest(centroids, cosine)


def block_rows(k: int, dim: int, device: torch.device, scratch: int) -> int:
    """Rows in a block: those whose K scores and few copies fill `scratch` bytes; more where scores are not kept."""
    if device.type == "cuda":
        return max(1, 64 * scratch // (40 * dim + (0 if importlib.util.find_spec("triton") else 4 * k)))
    if coarse_dtype() is not None and is_worth_it(k, dim):
        return max(1, 4 * scratch // (20 * dim + k))
    return max(1, scratch // 4 // (20 * dim + 4 * k))  # small enough for a core's cache


class Assignment:
    """Labels (N,) int64 and distances (N,) float32 of this rank's rows under the last centroids seen."""

    def __init__(self, rows: Rows, frame: Frame, ranks: Ranks) -> None:
        self._rows, self._frame, self._ranks = rows, frame, ranks
        self.labels = torch.full((rows.n,), -1, device=rows.device)
        self.distance = torch.empty(rows.n, device=rows.device)
        self._facts: dict[int, Any] = {}  # by first row; kept where the rows themselves are in memory
        self._seen = torch.zeros(2, dtype=torch.int64)

    def update(self, centroids: Tensor) -> tuple[bool, Tensor]:
        """Assign all rows to centroids (K, D); return whether any label changed, and the sums (K, D) float64."""
        nearest = nearest_of(self._frame.enter(centroids), self._frame.cosine)
        sums = LabelSums(centroids)
        changed = False
        for part, block in self._rows:
            entered, labels = self._frame.enter(block), self.labels[part]
            facts = self._facts.get(part.start)
            if facts is None:
                facts = nearest.facts(entered)
            if self._rows.in_memory:
                self._facts[part.start] = facts
            self.distance[part], index = nearest(entered, facts)
            changed = changed or not torch.equal(labels, index)
            self.labels[part] = index
            sums.add(index, entered)
        if isinstance(nearest, Screened):
            self._seen += torch.tensor([nearest.n_rechecked, nearest.n_seen])
        anywhere = self._ranks.sum(torch.tensor(int(changed), device=self._rows.device))
        return bool(anywhere), self._ranks.sum(sums.total())

    def counts(self, k: int) -> Tensor:
        """Members (K,) int64 of each cluster over all ranks."""
        return self._ranks.sum(torch.bincount(self.labels, minlength=k))

    def inertia(self) -> float:
        return float(self._ranks.sum(self.distance.sum(dtype=torch.float64)))

    def rechecked(self) -> float:
        """Share of this rank's rows, over all updates, that the coarse product alone did not decide; 0 without one."""
        return float(self._seen[0] / self._seen[1].clamp_min(1))


class LabelSums:
    """Sums (K, D) of rows by label, repeatable: float64, except that on a CPU a few members of each cluster are added
    in float32 first, which is several times as fast."""

    def __init__(self, centroids: Tensor) -> None:
        self._sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
        self._few, self._n_few = torch.zeros_like(centroids), 0

    def add(self, labels: Tensor, rows: Tensor) -> None:
        """labels (B,) int64, rows (B, D) float32."""
        if rows.is_cuda:  # index_add_ races there
            self._sums += segment_sums(labels, rows.double(), len(self._sums))
            return
        limit = max(1024, 64 * len(self._sums))
        for which, some in zip(labels.split(limit), rows.split(limit), strict=True):
            if self._n_few + len(some) > limit:
                self.total()
            self._few.index_add_(0, which, some)
            self._n_few += len(some)

    def total(self) -> Tensor:
        """(K, D) float64 of all rows so far."""
        self._sums += self._few
        self._few.zero_()
        self._n_few = 0
        return self._sums


def segment_sums(labels: Tensor, rows: Tensor, k: int) -> Tensor:
    """Sums (K, D) of rows (B, D) by label, each added in the order of the rows."""
    order, lengths = labels.argsort(stable=True), torch.bincount(labels, minlength=k)
    return torch.segment_reduce(rows[order], "sum", lengths=lengths, axis=0)


def add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> None:
    """sums[index] += rows in place, repeatably, for few rows: index_add_ races on a GPU, index_put_ sorts there."""
    if sums.is_cuda:
        sums.index_put_((index,), rows, accumulate=True)
    else:
        sums.index_add_(0, index, rows)
