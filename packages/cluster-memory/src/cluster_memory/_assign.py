"""The assignment step: the nearest centroid of each row, by the fastest exact method for the device."""

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cluster_memory import _device
from cluster_memory._coarse import CoarseNearest, CoarseRows, coarse_dtype, is_worth_it
from cluster_memory._nearest import Columns, Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._sums import add_rows, segment_sums
from cluster_memory._threads import Threads

# Rows in memory with at most this many elements are copied once into the fastest layout for the float32 product.
_FEW = 2**24
# A pass with at least this many multiplications (N K D) is read by our own threads.
_LARGE = 2**31
# With coarse products the numba loops save less, so they must be this many times larger to repay half a second of
# loading them.
_LOADING = 16


def numba_loops(rows: Rows, k: int) -> Any:
    """The module `_numba_loops` if numba is installed and the fit is large enough to repay loading it, else None.

    The answer depends on the sizes only, so that a fit is repeatable. The exception are fits without coarse products:
    there numba and torch give the same bits, so the loops are also used if they are already loaded."""
    if rows.device.type != "cpu" or not importlib.util.find_spec("numba"):
        return None
    if is_worth_it(k, rows.dim):
        pays = is_large(rows, k, _LOADING)
    else:
        pays = is_large(rows, k) or "cluster_memory._numba_loops" in sys.modules
    return importlib.import_module("cluster_memory._numba_loops") if pays else None


def is_large(rows: Rows, k: int, times: int = 1) -> bool:
    """Whether one pass over the rows makes at least `times` times `_LARGE` multiplications."""
    return rows.n * k * rows.dim >= times * _LARGE


def nearest_of(centroids: Tensor, cosine: bool, loops: Any = None) -> Nearest | CoarseNearest:
    """The fastest object for this device that finds the nearest of centroids (K, D).

    Called with float32 rows (B, D), it returns their distances (B,) and indices (B,). loops: the module `_numba_loops`
    or None."""
    if centroids.is_cuda:
        if not importlib.util.find_spec("triton"):
            return Nearest(centroids, cosine)
        from cluster_memory._triton_nearest import TritonNearest

        return TritonNearest(centroids, cosine)
    dtype = coarse_dtype()
    if dtype is None or not is_worth_it(*centroids.shape):
        return loops.NumbaNearest(centroids, cosine) if loops else Nearest(centroids, cosine)
    if loops and dtype == torch.int8:
        return loops.NumbaCoarseNearest(centroids, cosine)
    return CoarseNearest(centroids, cosine, dtype)


def block_rows(k: int, dim: int, device: torch.device, scratch: int) -> int:
    """Number of rows in a block, so that their K scores and a few copies of them fill `scratch` bytes.

    Blocks are larger where scores are not all held in memory: on a GPU, and with coarse products."""
    if device.type == "cuda":
        return max(1, 64 * scratch // (40 * dim + (0 if importlib.util.find_spec("triton") else 4 * k)))
    if coarse_dtype() is not None and is_worth_it(k, dim):
        return max(1, 2 * scratch // (20 * dim + k))
    return max(1, scratch // 4 // (20 * dim + 4 * k))  # a thread's part stays in its core's cache


class Assignment:
    """Labels (N,) int64 and distances (N,) float32 of this rank's rows under the centroids of the last update.

    If at most half of the centroids moved since the last update, rows are compared with the moved ones only: an unmoved
    centroid cannot be nearer than the last distance. A row is compared with all centroids if its own centroid moved and
    no moved centroid is nearer than the last distance. This is exact; it needs no bounds on distances."""

    def __init__(self, rows: Rows, k: int, frame: Frame, ranks: Ranks) -> None:
        self._rows, self._frame, self._ranks = rows, frame, ranks
        self.labels = torch.full((rows.n,), -1, device=rows.device)
        self.distance = torch.empty(rows.n, device=rows.device)
        self._last: Tensor | None = None  # centroids of the last update, in the frame
        self._facts: dict[int, Any] = {}  # what `Nearest.facts` returned for a block, by the block's first row
        self._seen = torch.zeros(2, dtype=torch.int64)  # rows rechecked in float32, rows seen by a coarse product
        self._loops = numba_loops(rows, k)
        wants_threads = rows.device.type == "cpu" and rows.may_read_ahead and is_large(rows, k)
        self._threads = Threads(torch.get_num_threads() if wants_threads else 1)

    def update(self, centroids: Tensor, wants_sums: bool = True) -> tuple[bool, Tensor]:
        """Assigns all rows to centroids (K, D). Returns whether any label changed, and the sums (K, D) float64 of the
        members, both over all ranks."""
        framed = self._frame.enter(centroids)
        every = nearest_of(framed, self._frame.cosine, self._loops)
        moved = None if self._last is None else (framed != self._last).any(1)
        self._last = framed
        sums = LabelSums(framed, self._loops)
        changed = False
        if moved is None or 2 * int(moved.sum()) > len(framed):
            found = self._among_all(every)
        else:
            found = self._among_moved(every, moved)
        for part, entered, distance, index in found:
            changed = changed or not torch.equal(self.labels[part], index)
            self.distance[part], self.labels[part] = distance, index
            if wants_sums:
                self._threads.run(partial(sums.add, index, entered))
        anywhere = self._ranks.sum(torch.full((), int(changed), device=self._rows.device))
        return bool(anywhere), self._ranks.sum(sums.total())

    def _among_all(self, nearest: Nearest | CoarseNearest) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Compares each block with all centroids: yields its slice of rows, the rows (B, D) in the frame, the distance
        (B,) and the index (B,)."""
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

        yield from self._threads.map(compare, self._rows)
        self._count(nearest)

    def _among_moved(
        self, every: Nearest | CoarseNearest, is_moved: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Like `_among_all`, but compares with the centroids of is_moved (K,) bool; the others are unchanged."""
        moved = is_moved.nonzero().flatten()
        some = nearest_of(every.centroids[moved], self._frame.cosine, self._loops) if len(moved) else None

        def compare(item: tuple[slice, Tensor]) -> tuple[slice, Tensor, Tensor, Tensor]:
            part, entered = item[0], self._frame.enter(item[1])
            last, label = self.distance[part], self.labels[part]
            if some is None:
                return part, entered, last, label
            facts: Any = self._facts.get(part.start)
            if isinstance(facts, CoarseRows) and not isinstance(some, CoarseNearest):
                facts = Columns(entered.T, facts.squares)
            distance, which = some(entered, facts)
            index = moved[which]
            again = (is_moved[label] & (distance >= last)).nonzero().flatten()
            stays = (distance > last) | ((distance == last) & (index > label))
            distance, index = torch.where(stays, last, distance), torch.where(stays, label, index)
            if len(again):
                distance[again], index[again] = every(entered[again])
            return part, entered, distance, index

        yield from self._threads.map(compare, self._rows)
        self._count(every)
        self._count(some)

    def _count(self, nearest: Nearest | CoarseNearest | None) -> None:
        """Adds the counters of a coarse product, for `rechecked`."""
        if isinstance(nearest, CoarseNearest):
            self._seen += torch.tensor([nearest.n_rechecked, nearest.n_seen])

    def counts(self, k: int) -> Tensor:
        """Members (K,) int64 of each cluster over all ranks."""
        return self._ranks.sum(torch.bincount(self.labels, minlength=k))

    def inertia(self) -> float:
        """Sum of the distances over all ranks, in the units of the frame."""
        return float(self._ranks.sum(self.distance.sum(dtype=torch.float64)))

    def rechecked(self) -> float:
        """Share of this rank's rows, over all updates, that the coarse product did not decide; 0 without one."""
        return float(self._seen[0] / self._seen[1].clamp_min(1))


class LabelSums:
    """Sums (K, D) float64 of rows by label, with the same bits every time.

    On a CPU about 64 rows a cluster are added in float32 before they go into the float64 sums, which is several times
    as fast."""

    def __init__(self, centroids: Tensor, loops: Any = None) -> None:
        self._add = loops.add_by_label if loops else add_rows
        self._sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
        self._few, self._n_few = torch.zeros_like(centroids), 0

    def add(self, labels: Tensor, rows: Tensor) -> None:
        """Adds rows (B, D) float32 to the sums of labels (B,) int64."""
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
        """Sums (K, D) float64 of all rows so far."""
        self._sums += self._few
        self._few.zero_()
        self._n_few = 0
        return self._sums
