"""The nearest centroid on a GPU in one Triton kernel, which keeps a running minimum and never stores N x K scores."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from cluster_memory._nearest import Nearest

# Rows and centroids of one program, and the elements of a row that it multiplies at a time. Rows that cannot be read 16
# bytes at a time need more registers, so their tiles are smaller. With four warps instead of eight, registers spill.
_ALIGNED_TILES, _OTHER_TILES, _WARPS = (128, 64, 32), (64, 64, 32), 8


@triton.jit
def _nearest(  # type: ignore[no-untyped-def]
    rows, centroids, bias, best_out, index_out, n, k, dim, alpha,
    N: tl.constexpr, K: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    dim = dim // ALIGN * ALIGN  # tells the compiler that ALIGN divides it
    row = tl.program_id(0) * N + tl.arange(0, N)
    start = row.to(tl.int64)[:, None] * dim  # N x D passes 2^31 elements
    best = tl.full((N,), float("inf"), tl.float32)
    index = tl.zeros((N,), tl.int32)
    for first in range(0, k, K):
        column = first + tl.arange(0, K)
        product = tl.zeros((N, K), tl.float32)
        for d0 in range(0, dim, D):
            d = d0 + tl.arange(0, D)
            x = tl.load(rows + start + d[None, :], mask=(row[:, None] < n) & (d[None, :] < dim), other=0.0)
            c = tl.load(
                centroids + column[None, :] * dim + d[:, None],
                mask=(column[None, :] < k) & (d[:, None] < dim),
                other=0.0,
            )
            product = tl.dot(x, c, product, input_precision="ieee")  # float32, not TF32: the argmin must be exact
        # columns beyond k score infinity, so they are never chosen
        score = tl.load(bias + column, mask=column < k, other=float("inf"))[None, :] + alpha * product
        low, where = tl.min(score, 1, return_indices=True, return_indices_tie_break_left=True)
        better = low < best  # not <=: ties stay with the lower index
        index = tl.where(better, first + where, index)
        best = tl.where(better, low, best)
    tl.store(best_out + row, best, mask=row < n)
    tl.store(index_out + row, index, mask=row < n)


def nearest(
    rows: Tensor, centroids: Tensor, bias: Tensor, alpha: float, tiles: tuple[int, int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Minimum (B,) float32 over k of bias_k + alpha x.c_k, and its first index (B,) int64.

    rows (B, D), centroids (K, D) and bias (K,) are float32, contiguous and on one device. tiles are powers of two, at
    least 16; None takes the ones that suit D."""
    n, dim = rows.shape
    align = math.gcd(16, dim)
    best = torch.empty(n, device=rows.device)
    index = torch.empty(n, dtype=torch.int32, device=rows.device)
    if tiles is None:
        tiles = _ALIGNED_TILES if align % 4 == 0 else _OTHER_TILES
    if n:
        with torch.cuda.device_of(rows):  # Triton launches on the current device, not on that of the tensors
            _nearest[(triton.cdiv(n, tiles[0]),)](
                rows, centroids, bias, best, index, n, len(centroids), dim, alpha, *tiles, align, num_warps=_WARPS
            )
    return best, index.long()


class TritonNearest(Nearest):
    """`Nearest` for rows on a GPU."""

    def facts(self, rows: Tensor) -> Tensor:
        """Squared norms (B,) of the rows, which a caller may keep between updates."""
        return torch.linalg.vector_norm(rows, dim=1).square_()

    def __call__(self, rows: Tensor, facts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distances (B,) float32 >= 0 and indices (B,) int64 of the nearest centroids of rows (B, D)."""
        best, index = nearest(rows.contiguous(), self.centroids, self.bias, -1.0 if self.cosine else -2.0)
        return self.distance(self.facts(rows) if facts is None else facts, best), index
