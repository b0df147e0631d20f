"""Which centroid is nearest: scores of a block of rows, reduced at once."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_STRIDE = 64
_MANY = 256


def first_argmin(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum (B,) and its first index (B,) int64 of each row of scores (B, K).

    A plain minimum runs several times faster than one that drags indices along, so over many columns it is taken in
    strides of 64 first, and the index is then looked for in one stride only."""
    k = scores.shape[1]
    if k > _MANY:
        whole = k // _STRIDE * _STRIDE
        minima = scores[:, :whole].unflatten(1, (-1, _STRIDE)).amin(2)
        if whole < k:
            minima = torch.cat([minima, scores[:, whole:].amin(1, keepdim=True)], 1)
        # the last, shorter stride is read with columns before it, which cannot hold the minimum if it won
        start = (minima.argmin(1, keepdim=True) * _STRIDE).clamp_max_(k - _STRIDE)
        inside = scores.gather(1, start + torch.arange(_STRIDE, device=scores.device))
    else:
        start, inside = torch.zeros((), dtype=torch.int64, device=scores.device), scores
    least, index = inside.min(1)
    return least, index + start.flatten()


@dataclass(frozen=True)
class Columns:
    """Rows (B, D) as the product with centroids takes them."""

    values: Tensor  # (D, B) float32, or (D + 1, B) with a last row of ones
    squares: Tensor  # (B,) float32 squared norms

    @classmethod
    def of(cls, rows: Tensor) -> "Columns":
        return cls(rows.T, torch.linalg.vector_norm(rows, dim=1).square_())

    def copied(self) -> "Columns":
        """In the order of memory and with ones, which add the bias: a product some 40 % faster, if it is made often."""
        return Columns(torch.cat([self.values, torch.ones_like(self.values[:1])]), self.squares)


class Nearest:
    """argmin over k of |x - c_k|^2 for rows x (B, D), as |c|^2 - 2 x.c: one matrix product; ties to the lower index.

    With `cosine`, rows and centroids are unit (or zero) and the distance is 1 - x.c; a zero row is at distance 0 of
    cluster 0, since it has no direction."""

    def __init__(self, centroids: Tensor, cosine: bool) -> None:
        self.centroids, self.cosine = centroids, cosine
        self.bias = centroids.new_zeros(len(centroids)) if cosine else centroids.square().sum(1)
        self._weights = torch.cat([centroids * (-1 if cosine else -2), self.bias[:, None]], 1)
        self._places = torch.arange(len(centroids), dtype=torch.float32, device=centroids.device)[:, None]
        self._kept = threading.local()

    def facts(self, rows: Tensor) -> Any:
        """What depends on rows (B, D) alone, and may be kept."""
        return Columns.of(rows)

    def __call__(self, rows: Tensor, facts: Any = None) -> tuple[Tensor, Tensor]:
        """(distance (B,) float32 >= 0, index (B,) int64); `facts`: those of these rows, if known."""
        columns: Columns = facts or self.facts(rows)
        best, index = self.best(columns)
        return self.distance(columns.squares, best), index

    def best(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Least score (B,) and its first index (B,) int64.

        An arg min, or a comparison, takes torch ten times as long as arithmetic, which runs in whole vectors: so the
        sign of what a score has above the least is added, times K, to the index."""
        scores = self.scores(columns, self._scratch(columns.values.shape[1]))
        least = scores.amin(0)
        above = scores.sub_(least).sign_()
        return least, torch.add(self._places, above, alpha=len(self.centroids), out=above).amin(0).long()

    def _scratch(self, n: int) -> Tensor:
        """(K, n) for scores, the same from block to block of a thread, so that it stays in the cache."""
        if getattr(self._kept, "n", None) != n:
            self._kept.n, self._kept.scores = n, self._weights.new_empty(len(self.centroids), n)
        scores: Tensor = self._kept.scores
        return scores

    def scores(self, columns: Columns, out: Tensor | None = None) -> Tensor:
        """(K, B): smallest for the nearest centroid; `distance` is what a score stands for."""
        if len(columns.values) == self._weights.shape[1]:
            return torch.mm(self._weights, columns.values, out=out)
        return torch.addmm(self.bias[:, None], self._weights[:, :-1], columns.values, out=out)

    def distance(self, squares: Tensor, best: Tensor) -> Tensor:
        """(..., B) of scores of the same shape, for B rows of squared norms `squares`."""
        distance = torch.where(squares > 0, best + 1, 0) if self.cosine else best + squares
        return distance.clamp_min_(0)
