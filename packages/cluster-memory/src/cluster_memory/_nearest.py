"""Which centroid is nearest: scores of a block of rows, reduced at once."""

import torch
from torch import Tensor

# Scores that are reduced together first, by the dimension along which the minimum runs.
_STRIDES = (8, 64)


def first_argmin(scores: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Minimum (B,) and its first index (B,) int64 of scores without NaN, (B, K) along dim 1, or (K, B) along dim 0.

    A plain minimum runs many times faster than one that drags indices along, so it is taken in strides first, and the
    index is then looked for in one stride only. dim 0 is the faster one for K in the hundreds."""
    k = scores.shape[dim]
    stride = min(k, _STRIDES[dim])
    whole = k // stride * stride
    minima = scores.narrow(dim, 0, whole).unflatten(dim, (-1, stride)).amin(dim + 1)
    if whole < k:
        minima = torch.cat([minima, scores.narrow(dim, whole, k - whole).amin(dim, keepdim=True)], dim)
    least = minima.amin(dim, keepdim=True)
    # the last, shorter stride is read with scores before it, which cannot hold the minimum if it won
    start = (_first_equal(minima, least, dim) * stride).clamp_max_(k - stride)
    inside = scores.gather(dim, start + _places(scores, dim, stride).long())
    return least.squeeze(dim), (start + _first_equal(inside, least, dim)).squeeze(dim)


def _first_equal(values: Tensor, least: Tensor, dim: int) -> Tensor:
    """First index along dim at which values equal their minimum `least`; arithmetic, unlike comparisons and arg min,
    runs in whole vectors."""
    m = values.shape[dim]
    differs = torch.sub(values, least).sign_()
    return torch.add(_places(values, dim, m), differs, alpha=m).amin(dim, keepdim=True).long()


def _places(values: Tensor, dim: int, m: int) -> Tensor:
    return torch.arange(m, dtype=torch.float32, device=values.device).unsqueeze(1 - dim)


class Nearest:
    """argmin over k of |x - c_k|^2 for rows x (B, D), as |c|^2 - 2 x.c: one matrix product; ties to the lower index.

    With `cosine`, rows and centroids are unit (or zero) and the distance is 1 - x.c; a zero row is at distance 0 of
    cluster 0, since it has no direction."""

    def __init__(self, centroids: Tensor, cosine: bool) -> None:
        self.centroids, self.cosine = centroids, cosine
        self.bias = centroids.new_zeros(len(centroids)) if cosine else centroids.square().sum(1)

    def facts(self, rows: Tensor) -> Tensor:
        """What depends on rows (B, D) alone, and may be kept: their squared norms (B,)."""
        return torch.linalg.vector_norm(rows, dim=1).square_()

    def __call__(self, rows: Tensor, squares: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(distance (B,) float32 >= 0, index (B,) int64); `squares`: the facts of these rows, if known."""
        best, index = first_argmin(self.scores(rows), dim=0)
        return self.distance(self.facts(rows) if squares is None else squares, best), index

    def scores(self, rows: Tensor) -> Tensor:
        """(K, B): smallest for the nearest centroid; `distance` is what a score stands for."""
        return torch.addmm(self.bias[:, None], self.centroids, rows.T, alpha=-1 if self.cosine else -2)

    def distance(self, squares: Tensor, best: Tensor) -> Tensor:
        """(B, ...) of scores of the same shape, for rows of squared norms `squares`, which broadcast."""
        distance = torch.where(squares > 0, best + 1, 0) if self.cosine else best + squares
        return distance.clamp_min_(0)
