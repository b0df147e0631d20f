"""Inner loops of k-means on a CPU, compiled by numba. They read the scores once where torch reads them several times.

`NumbaNearest` and `add_by_label` give the same bits as the torch code they replace. `NumbaCoarseNearest` finds the same
centroid, except for ties within float32 rounding."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from cluster_memory._coarse import SLACK, CoarseNearest, CoarseRows
from cluster_memory._nearest import Columns, Nearest

# The scores of a tile should stay in a core's cache until they are read. A product with fewer rows than 64 is slow.
_TILE_BYTES, _TILE_ROWS = 2**21, 64
# A row with more than this share of the centroids left is given to the float32 product with all centroids.
_TOO_MANY = 1 / 16
# Number of groups that share one upper bound on their limits.
_LANE = 32
# Number of columns whose running minima stay in registers or the first-level cache.
_CHUNK = 256

# These flags allow reordered sums, as in a matrix product, but not code that assumes finite numbers.
_compiled = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


@_compiled
def _score(row: Any, centroid: Any, bias: Any) -> Any:
    """Float32 score of one row and one centroid."""
    total = np.float32(0)
    for d in range(len(row)):
        total += row[d] * centroid[d]
    return total - bias


@_compiled
def _sortable(bits: Any) -> Any:
    """Maps the bits of floats (not NaN) to integers in the same order, with -0.0 just below 0.0. numba vectorises the
    maximum of integers, but not that of floats."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@_compiled
def _look(scores: Any, first: int, n: int, rows: Any, coarse: tuple, tables: tuple, found: tuple) -> int:
    """Finds the nearest centroids of n rows, from row `first`, whose coarse scores are the tile (B, S, G) int32.

    coarse: scale, norms and lost (N,) of the rows. tables: centroids (K, D), bias (K,), members (G, S), and a table
    (4, G) with the scale of each group and the factors of |e|, |x'| and 1 in its limit. found: arrays to write the
    highest score (N,) and its first index (N,) to; the index is -1 if too many centroids are left to score here.
    Returns how many rows needed more than one float32 score."""
    (scale, norms, lost), (centroids, bias, members, groups), (top, index) = coarse, tables, found
    _, size, n_groups = scores.shape
    most = np.empty(n_groups, np.int32)
    rest, upper = np.empty(n_groups, np.float32), np.empty(n_groups, np.float32)
    bits, heads = upper.view(np.int32), np.empty(n_groups // _LANE, np.int32)
    one = np.empty(1, np.float32)
    one_bits = one.view(np.int32)
    too_many = max(8, _TOO_MANY * len(centroids))
    n_rivals = 0
    for r in range(n):
        tile, i = scores[r], first + r
        for g in range(n_groups):
            most[g] = tile[0, g]
        for s in range(1, size - 3, 4):  # four at a time, to read and write `most` less often
            a, b, c, d = tile[s], tile[s + 1], tile[s + 2], tile[s + 3]
            for g in range(n_groups):
                most[g] = max(max(max(a[g], b[g]), max(c[g], d[g])), most[g])
        for s in range(size - (size - 1) % 4, size):
            a = tile[s]
            for g in range(n_groups):
                most[g] = max(a[g], most[g])
        of_lost, of_norm, unit = lost[i] + np.float32(SLACK) * norms[i], norms[i] + lost[i], scale[i]
        for g in range(n_groups):
            rest[g] = of_lost * groups[1, g] + of_norm * groups[2, g] + groups[3, g]
        for g in range(n_groups):
            upper[g] = np.float32(most[g]) * (groups[0, g] * unit) + rest[g]
        largest = np.int32(-(2**31))
        for h in range(len(heads)):
            head = np.int32(-(2**31))
            for bit in bits[h * _LANE : (h + 1) * _LANE]:
                head = max(head, _sortable(bit))
            heads[h] = head
            largest = max(largest, head)
        likely = 0
        while heads[likely // _LANE] != largest:
            likely += _LANE
        while _sortable(bits[likely]) != largest:
            likely += 1
        s = 0
        while tile[s, likely] != most[likely]:
            s += 1
        first_seen = best = members[likely, s]
        score = _score(rows[i], centroids[best], bias[best])
        n_looked = 0
        for h in range(len(heads)):
            one[0] = score
            if heads[h] < _sortable(one_bits[0]) - 1:
                continue
            for g in range(h * _LANE, (h + 1) * _LANE):
                if upper[g] >= score:
                    for s in range(size):
                        k = members[g, s]
                        if np.float32(tile[s, g]) * (groups[0, g] * unit) + rest[g] >= score and k != first_seen:
                            other = _score(rows[i], centroids[k], bias[k])
                            n_looked += 1
                            if other > score or (other == score and k < best):
                                score, best = other, k
            if n_looked > too_many:
                break
        n_rivals += n_looked > 0
        top[i], index[i] = score, best if n_looked <= too_many else -1
    return n_rivals


@numba.njit(nogil=True, cache=True)
def _first_min(scores: Any, least: Any, index: Any) -> None:
    """Writes the minimum (B,) float32 over the first dimension of scores (K, B), and its first index (B,) int64."""
    k, n = scores.shape
    low, where = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.int32)
    for start in range(0, n, _CHUNK):
        width = min(_CHUNK, n - start)
        low[:], where[:] = np.inf, 0
        for i in range(k):
            some = scores[i, start : start + width]
            for j in range(width):
                better = some[j] < low[j]
                low[j] = some[j] if better else low[j]
                where[j] = np.int32(i) if better else where[j]
        for j in range(width):
            least[start + j], index[start + j] = low[j], where[j]


@numba.njit(nogil=True, cache=True)
def _add_by_label(sums: Any, labels: Any, rows: Any) -> None:
    """Loop of `add_by_label` over arrays."""
    for i in range(len(labels)):
        total, row = sums[labels[i]], rows[i]
        for d in range(len(row)):
            total[d] += row[d]


def add_by_label(sums: Tensor, labels: Tensor, rows: Tensor) -> None:
    """Adds rows (B, D) to sums (K, D) at labels (B,), in place and in the order of the rows."""
    _add_by_label(sums.numpy(), labels.numpy(), rows.contiguous().numpy())


class NumbaNearest(Nearest):
    """`Nearest` on a CPU, with a compiled minimum."""

    def best(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Lowest score (B,) and its first index (B,) int64."""
        n = columns.values.shape[1]
        least, index = torch.empty(n), torch.empty(n, dtype=torch.int64)
        _first_min(self.scores(columns, self._scratch(n)).numpy(), least.numpy(), index.numpy())
        return least, index


class NumbaCoarseNearest(CoarseNearest):
    """`CoarseNearest` with int8 products. It scores single centroids instead of groups: only those whose own limit
    reaches the best score."""

    def __init__(self, centroids: Tensor, cosine: bool) -> None:
        super().__init__(centroids, cosine, torch.int8)
        tables = (centroids, 0.5 * self.exact.bias, self._members, torch.cat([self._scale[None], self._limits]))
        self._tables = tuple(table.contiguous().numpy() for table in tables)

    def __call__(self, rows: Tensor, coarse: CoarseRows | None = None) -> tuple[Tensor, Tensor]:
        """Distances (B,) float32 >= 0 and indices (B,) int64 of the nearest centroids of rows (B, D)."""
        coarse, rows = coarse or self.facts(rows), rows.contiguous()
        n, width = len(rows), self._coarse.shape[1]
        top, index = torch.empty(n), torch.empty(n, dtype=torch.int64)
        step = max(_TILE_ROWS, _TILE_BYTES // (4 * width))
        scores = torch.empty(min(n, step), width, dtype=torch.int32)
        tiles = scores.view(len(scores), *self._members.T.shape).numpy()
        facts = tuple(fact.numpy() for fact in (coarse.scale[:, 0], coarse.norms, coarse.lost))
        arrays = rows.numpy(), facts, self._tables, (top.numpy(), index.numpy())
        first = n_rivals = 0
        for values in coarse.values.split(step):
            m = values.shape[0]
            torch._int_mm(values, self._coarse, out=scores if m == step else scores[:m])
            n_rivals += _look(tiles, first, m, *arrays)
            first += m
        self._count(n, n_rivals)
        left = (index < 0).nonzero().flatten()
        if len(left):
            least, index[left] = self.exact.best(Columns.of(rows[left]))
            top[left] = -least if self.cosine else -least / 2
        return self.exact.distance(coarse.squares, -top if self.cosine else -2 * top), index
