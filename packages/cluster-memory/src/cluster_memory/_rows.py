"""A matrix read in blocks of float32 rows, wherever it lies, and the coordinates in which k-means compares rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster_memory._errors import NotFinite
from cluster_memory._ranks import Ranks
from cluster_memory._sources import Source

# Magnitudes below 2^20 and above 2^-20 square safely; a mean that has 5 % of the squares costs no digit worth centring.
_TAME, _CENTRED = 20, 0.05


class Rows:
    """This rank's rows of a matrix (N, D), read in float32 blocks of at most `block` rows.

    Only one block of rows is ever converted at a time. Row numbers are global: rank 0's rows come first."""

    # of this rank's rows, known after `check_finite`
    column_sums: Tensor  # (D,) float64
    sum_of_squares: Tensor  # () float64; infinite where float32 squares overflow
    largest: float

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
        """(slice of this rank's rows, float32 rows) block by block; a block may be the caller's own memory."""
        return self._source.blocks(self._block)

    def take(self, indices: Tensor) -> Tensor:
        """float32 rows (M, D) of M global row numbers, the same on every rank."""
        mine = (indices >= self.first) & (indices < self.first + self.n)
        rows = torch.zeros(len(indices), self.dim, device=self.device)
        rows[mine] = self._source.take(indices[mine] - self.first)
        return self._ranks.sum(rows)

    def check_finite(self) -> None:
        """NotFinite, on every rank, that names the first rows holding NaN or infinity."""
        bad: list[int] = []
        self.column_sums = torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        self.sum_of_squares = torch.zeros((), dtype=torch.float64, device=self.device)
        largest = torch.zeros((), device=self.device)
        for part, rows in self:
            sums = rows.sum(0)
            if not sums.isfinite().all():  # a bad row, or an overflow of the sum alone
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
    """Coordinates in which float32 distances are safe: unit rows for cosine; centred, and scaled by a power of two
    (exact) to about one, for euclidean. So data at 1e30, or far from the origin, lose nothing. Euclidean data that are
    safe as they are stay as they are, which saves copying them."""

    cosine: bool
    shift: Tensor  # (D,) float32, in scaled units
    scale: float
    is_identity: bool = False

    @classmethod
    def of(cls, rows: Rows, metric: str, ranks: Ranks) -> "Frame":
        """The frame of a data set that is known to be finite; the same on every rank."""
        if metric == "cosine":
            return cls(True, rows.column_sums.new_zeros(rows.dim).float(), 1.0)
        mean = ranks.sum(rows.column_sums.clone()) / rows.n_total
        squares = float(ranks.sum(rows.sum_of_squares.clone())) / rows.n_total
        exponent = math.frexp(ranks.max(torch.full((), rows.largest, device=rows.device)).item())[1]
        if abs(exponent) <= _TAME and float(mean.square().sum()) <= _CENTRED * squares:
            return cls(False, torch.zeros_like(mean).float(), 1.0, is_identity=True)
        scale = 2.0 ** max(-126, min(126, -exponent))  # the range of float32
        return cls(False, (mean * scale).float(), scale)

    def enter(self, rows: Tensor) -> Tensor:
        """float32 rows (M, D) in these coordinates; with cosine an all-zero row stays zero.

        May return `rows` itself: do not write to the result."""
        if self.is_identity:
            return rows
        if not self.cosine:
            return (rows * self.scale).sub_(self.shift)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        unit = rows / norms
        odd = ((norms < 1e-15) | ~(norms < 1e15)).flatten().nonzero().flatten()
        if len(odd):  # where squares leave float32, or there is no direction
            tiny = torch.finfo(torch.float32).tiny
            safe = rows[odd] / rows[odd].abs().amax(1, keepdim=True).clamp_min(tiny)
            unit[odd] = safe / torch.linalg.vector_norm(safe, dim=1, keepdim=True).clamp_min(tiny)
        return unit

    def leave(self, centroids: Tensor) -> Tensor:
        """float32 centroids (K, D), in the units of the data, of float64 ones in these coordinates."""
        if not self.cosine:
            return ((centroids + self.shift) / self.scale).float()
        return torch.nn.functional.normalize(centroids, dim=1).float()
