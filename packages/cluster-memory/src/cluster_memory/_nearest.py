"""Which centroid is nearest: scores of a block of rows, reduced at once."""

import torch
from torch import Tensor

_STRIDE = 64


def first_argmin(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum (B,) and its first index (B,) int64 of each row of scores (B, K).

    A plain minimum runs several times faster than one that drags indices along, so it is taken over strides of 64
    columns first, and the index is then looked for in one stride only."""
    k = scores.shape[1]
    if k > _STRIDE:
        whole = k // _STRIDE * _STRIDE
        minima = scores[:, :whole].unflatten(1, (-1, _STRIDE)).amin(2)
        if whole < k:
            minima = torch.cat([minima, scores[:, whole:].amin(1, keepdim=True)], 1)
        # the last, shorter stride is read with columns before it, which cannot hold the minimum if it won
        start = (minima.argmin(1, keepdim=True) * _STRIDE).clamp_max_(k - _STRIDE)
        inside = scores.gather(1, start + torch.arange(_STRIDE, device=scores.device))
    else:
        start, inside = 0, scores
    index = inside.argmin(1, keepdim=True)
    return inside.gather(1, index)[:, 0], (start + index)[:, 0]


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
        best, index = first_argmin(torch.addmm(self.bias, rows, self.columns, alpha=-1 if self.cosine else -2))
        squares = rows.square().sum(1)
        distance = torch.where(squares > 0, best + 1, 0) if self.cosine else best + squares
        return distance.clamp_min_(0), index
