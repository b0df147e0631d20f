"""The rows of all ranks, read in float32 blocks, and the coordinates in which k-means compares them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster_memory._errors import NotFinite
from cluster_memory._ranks import Ranks
from cluster_memory._sources import Source

# If the largest magnitude is between 2^-20 and 2^20, squares stay within float32. If the squared mean is at most 5 % of
# the mean square, centring would not make distances more precise.
_TAME, _CENTRED = 20, 0.05


class Rows:
    """This rank's rows of a matrix (N, D), read in float32 blocks of at most `block` rows.

    Only one block is converted at a time. Row numbers are global: the rows of rank 0 come first."""

    # Statistics of this rank's rows, set by `check_finite`.
    column_sums: Tensor  # (D,) float64
    sum_of_squares: Tensor  # () float64; infinite if the squares overflow float32
    largest: float  # magnitude

    def __init__(self, source: Source, block: int, ranks: Ranks) -> None:
        self._source, self._block, self._ranks = source, block, ranks
        self.device, self.n, self.dim, self.in_memory = source.device, source.n, source.dim, source.in_memory
        self.may_read_ahead = source.may_read_ahead
        shapes = ranks.stack(torch.tensor([self.n, self.dim], device=self.device)).tolist()
        if any(dim != self.dim for _, dim in shapes):
            raise ValueError(f"every rank must hold rows of one length, got {[dim for _, dim in shapes]}")
        self.first = sum(n for n, _ in shapes[: ranks.rank])
        self.n_total = sum(n for n, _ in shapes)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields each block as its slice of this rank's rows and the float32 rows.

        A block may be the caller's memory, so it must not be edited."""
        return self._source.blocks(self._block)

    def take(self, indices: Tensor) -> Tensor:
        """Rows (M, D) float32 of global row numbers (M,), which must be the same on every rank."""
        mine = (indices >= self.first) & (indices < self.first + self.n)
        rows = torch.zeros(len(indices), self.dim, device=self.device)
        rows[mine] = self._source.take(indices[mine] - self.first)
        return self._ranks.sum(rows)

    def check_finite(self) -> None:
        """Raises NotFinite on every rank if any row holds NaN or infinity; the message names the first ones."""
        bad: list[int] = []
        self.column_sums = torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        self.sum_of_squares = torch.zeros((), dtype=torch.float64, device=self.device)
        largest = torch.zeros((), device=self.device)
        for part, rows in self:
            sums = rows.sum(0)
            if not sums.isfinite().all():  # either a bad row, or only the float32 sum overflows
                sums = rows.sum(0, dtype=torch.float64)
            self.column_sums += sums
            self.sum_of_squares += torch.linalg.vector_norm(rows).double().square()
            low, high = rows.aminmax()
            largest = torch.maximum(largest, torch.maximum(high, -low))
            if len(bad) < 5 and not sums.isfinite().all():
                found = (~rows.isfinite().all(1)).nonzero().flatten()
                bad += (found + part.start + self.first).tolist()
        self.largest = float(largest)
        first = torch.full((5,), -1, device=self.device)
        first[: len(bad)] = torch.tensor(bad[:5], dtype=torch.int64, device=self.device)
        named = sorted(i for i in self._ranks.stack(first).flatten().tolist() if i >= 0)[:5]
        if named:
            raise NotFinite(f"x must be finite in float32; first rows with NaN or inf: {named}: drop or repair them")


@dataclass(frozen=True)
class Frame:
    """Coordinates in which float32 distances are precise.

    For cosine, rows have unit length. For euclidean, rows are centred and scaled by a power of two (which is exact) to
    magnitudes of about one, so that data at 1e30 or far from the origin lose no precision. Euclidean data that need
    neither are left as they are, which saves a copy."""

    cosine: bool
    shift: Tensor  # (D,) float32, subtracted after scaling
    scale: float
    is_identity: bool = False

    @classmethod
    def of(cls, rows: Rows, metric: str, ranks: Ranks) -> "Frame":
        """The frame for rows that passed `check_finite`; the same on every rank."""
        if metric == "cosine":
            return cls(True, rows.column_sums.new_zeros(rows.dim).float(), 1.0)
        mean = ranks.sum(rows.column_sums.clone()) / rows.n_total
        squares = float(ranks.sum(rows.sum_of_squares.clone())) / rows.n_total
        exponent = math.frexp(ranks.max(torch.full((), rows.largest, device=rows.device)).item())[1]
        if abs(exponent) <= _TAME and float(mean.square().sum()) <= _CENTRED * squares:
            return cls(False, torch.zeros_like(mean).float(), 1.0, is_identity=True)
        scale = 2.0 ** max(-126, min(126, -exponent))  # stays within the range of float32
        return cls(False, (mean * scale).float(), scale)

    def enter(self, rows: Tensor) -> Tensor:
        """Rows (M, D) float32 in these coordinates. With cosine, an all-zero row stays zero.

        May return `rows` itself, so the result must not be edited."""
        if self.is_identity:
            return rows
        if not self.cosine:
            return (rows * self.scale).sub_(self.shift)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        unit = rows / norms
        odd = ((norms < 1e-15) | ~(norms < 1e15)).flatten().nonzero().flatten()
        if len(odd):  # squares overflow or underflow float32, or the row is zero
            tiny = torch.finfo(torch.float32).tiny
            safe = rows[odd] / rows[odd].abs().amax(1, keepdim=True).clamp_min(tiny)
            unit[odd] = safe / torch.linalg.vector_norm(safe, dim=1, keepdim=True).clamp_min(tiny)
        return unit

    def leave(self, centroids: Tensor) -> Tensor:
        """Centroids (K, D) float32 in the units of the data, from float64 centroids in these coordinates."""
        if not self.cosine:
            return ((centroids + self.shift) / self.scale).float()
        return torch.nn.functional.normalize(centroids, dim=1).float()
