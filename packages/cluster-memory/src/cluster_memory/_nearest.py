"""Which centroid is nearest: scores of a block of rows, reduced at once."""

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


class Nearest:
    """argmin over k of |x - c_k|^2 for rows x (B, D), as |c|^2 - 2 x.c: one matrix product; ties to the lower index.

    With `cosine`, rows and centroids are unit (or zero) and the distance is 1 - x.c; a zero row is at distance 0 of
    cluster 0, since it has no direction."""

    def __init__(self, centroids: Tensor, cosine: bool) -> None:
        self.cosine = cosine
        self.bias = centroids.new_zeros(len(centroids)) if cosine else centroids.square().sum(1)
        self.columns = centroids.T

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(distance (B,) float32 >= 0, index (B,) int64)."""
        best, index = first_argmin(self.scores(rows))
        return self.distance(torch.linalg.vector_norm(rows, dim=1).square_(), best), index

    def scores(self, rows: Tensor) -> Tensor:
        """(B, K): smallest for the nearest centroid; `distance` is what a score stands for."""
        return torch.addmm(self.bias, rows, self.columns, alpha=-1 if self.cosine else -2)

    def distance(self, squares: Tensor, best: Tensor) -> Tensor:
        """(B, ...) of scores of the same shape, for rows of squared norms `squares`, which broadcast."""
        distance = torch.where(squares > 0, best + 1, 0) if self.cosine else best + squares
        return distance.clamp_min_(0)
