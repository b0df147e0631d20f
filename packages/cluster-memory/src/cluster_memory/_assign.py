"""The assignment step: every row to its nearest centroid, by the fastest exact way on its device."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cluster_memory._nearest import Columns, Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._screen import Coarse, Screened, coarse_dtype, is_worth_it

# Up to so many numbers, rows in memory are copied into the layout that the float32 product takes fastest.
_FEW = 2**24


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
    """Labels (N,) int64 and distances (N,) float32 of this rank's rows under the last centroids seen.

    Where most centroids stayed as they were, to the bit, rows are only compared with those that moved: an unmoved
    centroid is no nearer than the last distance was. A row compares all again if its own centroid moved and no moved
    one is nearer than that. Exact, without bounds."""

    def __init__(self, rows: Rows, frame: Frame, ranks: Ranks) -> None:
        self._rows, self._frame, self._ranks = rows, frame, ranks
        self.labels = torch.full((rows.n,), -1, device=rows.device)
        self.distance = torch.empty(rows.n, device=rows.device)
        self._last: Tensor | None = None  # centroids, in the frame
        self._facts: dict[int, Any] = {}  # by first row; kept where the rows themselves are in memory
        self._seen = torch.zeros(2, dtype=torch.int64)

    def update(self, centroids: Tensor, wants_sums: bool = True) -> tuple[bool, Tensor]:
        """Assign all rows to centroids (K, D); return whether any label changed, and the sums (K, D) float64."""
        places = self._frame.enter(centroids)
        every = nearest_of(places, self._frame.cosine)
        moved = None if self._last is None else (places != self._last).any(1)
        self._last = places
        sums = LabelSums(places)
        changed = False
        if moved is None or 2 * int(moved.sum()) > len(places):
            found = self._among_all(every)
        else:
            found = self._among_moved(every, moved)
        for part, entered, distance, index in found:
            changed = changed or not torch.equal(self.labels[part], index)
            self.distance[part], self.labels[part] = distance, index
            if wants_sums:
                sums.add(index, entered)
        anywhere = self._ranks.sum(torch.tensor(int(changed), device=self._rows.device))
        return bool(anywhere), self._ranks.sum(sums.total())

    def _among_all(self, nearest: Nearest | Screened) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """(rows, float32 rows (B, D) in the frame, distance (B,), index (B,)) of each block."""
        few = self._rows.n * self._rows.dim <= _FEW
        for part, block in self._rows:
            entered = self._frame.enter(block)
            facts: Any = self._facts.get(part.start)
            if facts is None:
                facts = nearest.facts(entered)
                if self._rows.in_memory and (few or not isinstance(facts, Columns)):
                    facts = facts.copied() if isinstance(facts, Columns) else facts
                    self._facts[part.start] = facts
            yield part, entered, *nearest(entered, facts)
        self._count(nearest)

    def _among_moved(
        self, every: Nearest | Screened, is_moved: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """The same, where all centroids but those of is_moved (K,) are as they were."""
        moved = is_moved.nonzero().flatten()
        some = nearest_of(every.centroids[moved], self._frame.cosine) if len(moved) else None
        for part, block in self._rows:
            entered, last, label = self._frame.enter(block), self.distance[part], self.labels[part]
            if some is None:
                yield part, entered, last, label
                continue
            facts: Any = self._facts.get(part.start)
            if isinstance(facts, Coarse) and not isinstance(some, Screened):
                facts = Columns(entered.T, facts.squares)
            distance, which = some(entered, facts)
            index = moved[which]
            again = (is_moved[label] & (distance >= last)).nonzero().flatten()
            stays = (distance > last) | ((distance == last) & (index > label))
            distance, index = torch.where(stays, last, distance), torch.where(stays, label, index)
            if len(again):
                distance[again], index[again] = every(entered[again])
            yield part, entered, distance, index
        self._count(every)
        self._count(some)

    def _count(self, nearest: Nearest | Screened | None) -> None:
        if isinstance(nearest, Screened):
            self._seen += torch.tensor([nearest.n_rechecked, nearest.n_seen])

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
