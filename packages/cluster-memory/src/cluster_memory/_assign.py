"""The assignment step: every row to its nearest centroid, by the fastest exact way on its device."""

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cluster_memory import _device
from cluster_memory._crew import Crew
from cluster_memory._nearest import Columns, Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._screen import Coarse, Screened, coarse_dtype, is_worth_it
from cluster_memory._sums import add_rows, segment_sums

# Up to so many numbers, rows in memory are copied into the layout that the float32 product takes fastest.
_FEW = 2**24
# Multiplications of a pass from which threads of its own pay; and so many times that where screening leaves less to
# gain, the half second of loading compiled loops.
_LARGE, _LOADING = 2**31, 16


def fused_loops(rows: Rows, k: int) -> Any:
    """The module of compiled loops where numba is installed and a fit of K centroids repays loading it; None elsewhere.

    The same sizes get the same answer, except where both ways give the same bits: loops once loaded are used then."""
    if rows.device.type != "cpu" or not importlib.util.find_spec("numba"):
        return None
    if is_worth_it(k, rows.dim):
        pays = is_large(rows, k, _LOADING)
    else:
        pays = is_large(rows, k) or "cluster_memory._fused" in sys.modules
    return importlib.import_module("cluster_memory._fused") if pays else None


def is_large(rows: Rows, k: int, times: int = 1) -> bool:
    return rows.n * k * rows.dim >= times * _LARGE


def nearest_of(centroids: Tensor, cosine: bool, fused: Any = None) -> Nearest | Screened:
    """What maps float32 rows (B, D) to distances (B,) and indices (B,) of the nearest centroids (K, D)."""
    if centroids.is_cuda:
        if not importlib.util.find_spec("triton"):
            return Nearest(centroids, cosine)
        from cluster_memory._triton_nearest import TritonNearest

        return TritonNearest(centroids, cosine)
    dtype = coarse_dtype()
    if dtype is None or not is_worth_it(*centroids.shape):
        return fused.FusedNearest(centroids, cosine) if fused else Nearest(centroids, cosine)
    if fused and dtype == torch.int8:
        return fused.FusedScreened(centroids, cosine)
    return Screened(centroids, cosine, dtype)


def block_rows(k: int, dim: int, device: torch.device, scratch: int) -> int:
    """Rows in a block: those whose K scores and few copies fill `scratch` bytes; more where scores are not kept."""
    if device.type == "cuda":
        return max(1, 64 * scratch // (40 * dim + (0 if importlib.util.find_spec("triton") else 4 * k)))
    if coarse_dtype() is not None and is_worth_it(k, dim):
        return max(1, 2 * scratch // (20 * dim + k))
    return max(1, scratch // 4 // (20 * dim + 4 * k))  # small enough for a core's cache


class Assignment:
    """Labels (N,) int64 and distances (N,) float32 of this rank's rows under the last centroids seen.

    Where most centroids stayed as they were, to the bit, rows are only compared with those that moved: an unmoved
    centroid is no nearer than the last distance was. A row compares all again if its own centroid moved and no moved
    one is nearer than that. Exact, without bounds."""

    def __init__(self, rows: Rows, k: int, frame: Frame, ranks: Ranks) -> None:
        self._rows, self._frame, self._ranks = rows, frame, ranks
        self.labels = torch.full((rows.n,), -1, device=rows.device)
        self.distance = torch.empty(rows.n, device=rows.device)
        self._last: Tensor | None = None  # centroids, in the frame
        self._facts: dict[int, Any] = {}  # by first row; kept where the rows themselves are in memory
        self._seen = torch.zeros(2, dtype=torch.int64)
        self._fused = fused_loops(rows, k)
        wants_threads = rows.device.type == "cpu" and rows.may_read_ahead and is_large(rows, k)
        self._crew = Crew(torch.get_num_threads() if wants_threads else 1)

    def update(self, centroids: Tensor, wants_sums: bool = True) -> tuple[bool, Tensor]:
        """Assign all rows to centroids (K, D); return whether any label changed, and the sums (K, D) float64."""
        places = self._frame.enter(centroids)
        every = nearest_of(places, self._frame.cosine, self._fused)
        moved = None if self._last is None else (places != self._last).any(1)
        self._last = places
        sums = LabelSums(places, self._fused)
        changed = False
        if moved is None or 2 * int(moved.sum()) > len(places):
            found = self._among_all(every)
        else:
            found = self._among_moved(every, moved)
        for part, entered, distance, index in found:
            changed = changed or not torch.equal(self.labels[part], index)
            self.distance[part], self.labels[part] = distance, index
            if wants_sums:
                self._crew.run(partial(sums.add, index, entered))
        anywhere = self._ranks.sum(torch.full((), int(changed), device=self._rows.device))
        return bool(anywhere), self._ranks.sum(sums.total())

    def _among_all(self, nearest: Nearest | Screened) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """(rows, float32 rows (B, D) in the frame, distance (B,), index (B,)) of each block."""
        few = self._rows.n * self._rows.dim <= _FEW

        def compare(item: tuple[slice, Tensor]) -> tuple[slice, Tensor, Tensor, Tensor]:
            part, entered = item[0], self._frame.enter(item[1])
            facts: Any = self._facts.get(part.start)
            if facts is None:
                facts = nearest.facts(entered)
                if self._rows.in_memory and (few or not isinstance(facts, Columns)):
                    facts = facts.copied() if isinstance(facts, Columns) else facts
                    self._facts[part.start] = facts
            return part, entered, *nearest(entered, facts)

        yield from self._crew.map(compare, self._rows)
        self._count(nearest)

    def _among_moved(
        self, every: Nearest | Screened, is_moved: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """The same, where all centroids but those of is_moved (K,) are as they were."""
        moved = is_moved.nonzero().flatten()
        some = nearest_of(every.centroids[moved], self._frame.cosine, self._fused) if len(moved) else None

        def compare(item: tuple[slice, Tensor]) -> tuple[slice, Tensor, Tensor, Tensor]:
            part, entered = item[0], self._frame.enter(item[1])
            last, label = self.distance[part], self.labels[part]
            if some is None:
                return part, entered, last, label
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
            return part, entered, distance, index

        yield from self._crew.map(compare, self._rows)
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

    def __init__(self, centroids: Tensor, fused: Any = None) -> None:
        self._add = fused.add_by_label if fused else add_rows
        self._sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
        self._few, self._n_few = torch.zeros_like(centroids), 0

    def add(self, labels: Tensor, rows: Tensor) -> None:
        """labels (B,) int64, rows (B, D) float32."""
        if _device.on_gpu(rows.device):
            self._sums += segment_sums(labels, rows.double(), len(self._sums))
            return
        limit = max(1024, 64 * len(self._sums))
        for which, some in zip(labels.split(limit), rows.split(limit), strict=True):
            if self._n_few + len(some) > limit:
                self.total()
            self._add(self._few, which, some)
            self._n_few += len(some)

    def total(self) -> Tensor:
        """(K, D) float64 of all rows so far."""
        self._sums += self._few
        self._few.zero_()
        self._n_few = 0
        return self._sums
