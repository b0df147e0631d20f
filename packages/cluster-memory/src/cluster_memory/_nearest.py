"""The nearest centroid in float32: one matrix product for a block of rows, and its minimum."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# `first_argmin` takes minima of strides of this many columns first, where there are more than `_MANY`.
_STRIDE = 64
_MANY = 256


def first_argmin(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum (B,) and its first index (B,) int64 of each row of scores (B, K).

    A minimum without an index is several times faster than one with it. So many columns are first reduced in strides of
    64, and the index is then searched in one stride only."""
    k = scores.shape[1]
    if k > _MANY:
        whole = k // _STRIDE * _STRIDE
        minima = scores[:, :whole].unflatten(1, (-1, _STRIDE)).amin(2)
        if whole < k:
            minima = torch.cat([minima, scores[:, whole:].amin(1, keepdim=True)], 1)
        # The last stride may be shorter; it is then read together with columns before it. If it won, those columns are
        # above the minimum and cannot be chosen.
        start = (minima.argmin(1, keepdim=True) * _STRIDE).clamp_max_(k - _STRIDE)
        inside = scores.gather(1, start + torch.arange(_STRIDE, device=scores.device))
    else:
        start, inside = torch.zeros((), dtype=torch.int64, device=scores.device), scores
    least, index = inside.min(1)
    return least, index + start.flatten()


@dataclass(frozen=True)
class Columns:
    """Rows (B, D) in the layout of the product with the centroids."""

    values: Tensor  # (D, B) float32, or (D + 1, B) with a last row of ones
    squares: Tensor  # (B,) float32 squared norms

    @classmethod
    def of(cls, rows: Tensor) -> "Columns":
        return cls(rows.T, torch.linalg.vector_norm(rows, dim=1).square_())

    def copied(self) -> "Columns":
        """A contiguous copy with a row of ones, which makes the product add the bias. The product is then about 40 %
        faster, which repays the copy if it is made for several iterations."""
        return Columns(torch.cat([self.values, torch.ones_like(self.values[:1])]), self.squares)


class Nearest:
    """Finds argmin_k |x - c_k|^2 for rows x (B, D) from the scores |c_k|^2 - 2 x.c_k. Ties go to the lower index.

    With `cosine`, rows and centroids have unit length (or are zero) and the distance is 1 - x.c_k. A zero row has no
    direction: it gets distance 0 and cluster 0."""

    def __init__(self, centroids: Tensor, cosine: bool) -> None:
        self.centroids, self.cosine = centroids, cosine
        self.bias = centroids.new_zeros(len(centroids)) if cosine else centroids.square().sum(1)
        self._weights = torch.cat([centroids * (-1 if cosine else -2), self.bias[:, None]], 1)
        self._index = torch.arange(len(centroids), dtype=torch.float32, device=centroids.device)[:, None]
        self._kept = threading.local()  # scratch memory, one for each thread

    def facts(self, rows: Tensor) -> Any:
        """What depends on rows (B, D) but on no centroid, so that a caller may keep it between updates."""
        return Columns.of(rows)

    def __call__(self, rows: Tensor, facts: Any = None) -> tuple[Tensor, Tensor]:
        """Distances (B,) float32 >= 0 and indices (B,) int64 of the nearest centroids of rows (B, D).

        facts: `self.facts(rows)`, if the caller kept it."""
        columns: Columns = facts or self.facts(rows)
        best, index = self.best(columns)
        return self.distance(columns.squares, best), index

    def best(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Lowest score (B,) and its first index (B,) int64.

        torch's argmin and comparisons are ten times slower than its vectorised arithmetic. So the index is found by
        arithmetic: scores above the minimum get K added to their index, and the lowest index wins."""
        scores = self.scores(columns, self._scratch(columns.values.shape[1]))
        least = scores.amin(0)
        above = scores.sub_(least).sign_()
        return least, torch.add(self._index, above, alpha=len(self.centroids), out=above).amin(0).long()

    def _scratch(self, n: int) -> Tensor:
        """Scratch memory (K, n) for scores. A thread uses the same memory for every block, so it stays in the cache."""
        if getattr(self._kept, "n", None) != n:
            self._kept.n, self._kept.scores = n, self._weights.new_empty(len(self.centroids), n)
        scores: Tensor = self._kept.scores
        return scores

    def scores(self, columns: Columns, out: Tensor | None = None) -> Tensor:
        """Scores (K, B), lowest for the nearest centroid. `distance` turns them into distances."""
        if len(columns.values) == self._weights.shape[1]:
            return torch.mm(self._weights, columns.values, out=out)
        return torch.addmm(self.bias[:, None], self._weights[:, :-1], columns.values, out=out)

    def distance(self, squares: Tensor, best: Tensor) -> Tensor:
        """Distances (..., B) for scores `best` (..., B) of B rows with squared norms `squares` (B,)."""
        distance = torch.where(squares > 0, best + 1, 0) if self.cosine else best + squares
        return distance.clamp_min_(0)
