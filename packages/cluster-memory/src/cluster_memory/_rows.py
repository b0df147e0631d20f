"""A matrix read in blocks of float32 rows, wherever it lies, and the coordinates in which k-means compares rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster_memory._ranks import Ranks

Matrix = Tensor | NDArray[np.floating]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Rows:
    """This rank's rows of a matrix (N, D): tensor, array or memory map of float16, bfloat16, float32 or float64.

    Only one block of rows is ever converted at a time. Row numbers are global: rank 0's rows come first."""

    def __init__(self, x: Matrix, block: int, ranks: Ranks) -> None:
        if not isinstance(x, (Tensor, np.ndarray)):
            raise TypeError(f"x must be a tensor, an array or a memory map, got {type(x).__name__}")
        if not (x.dtype in _FLOATS if isinstance(x, Tensor) else x.dtype.kind == "f"):
            raise TypeError(f"x must hold floats, got {x.dtype}: convert it, e.g. x.astype('float32') or x.float()")
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"x must be (N, D) with D >= 1, got {tuple(x.shape)}: flatten each sample into one row")
        self._x, self._block, self._ranks = x, block, ranks
        self.device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        self.n, self.dim = int(x.shape[0]), int(x.shape[1])
        shapes = ranks.stack(torch.tensor([self.n, self.dim], device=self.device)).tolist()
        if any(dim != self.dim for _, dim in shapes):
            raise ValueError(f"every rank must hold rows of one length, got {[dim for _, dim in shapes]}")
        self.first = sum(n for n, _ in shapes[: ranks.rank])
        self.n_total = sum(n for n, _ in shapes)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """(slice of this rank's rows, float32 rows) block by block."""
        for start in range(0, self.n, self._block):
            part = slice(start, min(start + self._block, self.n))
            yield part, self._float32(self._x[part])

    def take(self, indices: Tensor) -> Tensor:
        """float32 rows (M, D) of M global row numbers, the same on every rank."""
        mine = (indices >= self.first) & (indices < self.first + self.n)
        rows = torch.zeros(len(indices), self.dim, device=self.device)
        local = indices[mine] - self.first
        rows[mine] = self._float32(self._x[local if isinstance(self._x, Tensor) else local.cpu().numpy()])
        return self._ranks.sum(rows)

    def _float32(self, part: Matrix) -> Tensor:
        if isinstance(part, Tensor):
            return part.detach().float()
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, which `check_finite` reports
            return torch.from_numpy(np.array(part, dtype=np.float32))

    def check_finite(self) -> None:
        """ValueError, on every rank, that names the first rows holding NaN or infinity."""
        bad: list[int] = []
        for part, rows in self:
            if len(bad) < 5 and not rows.sum().isfinite():
                found = (~rows.isfinite().all(1)).nonzero().flatten()
                bad += (found + part.start + self.first).tolist()
        first = torch.full((5,), -1, device=self.device)
        first[: len(bad)] = torch.tensor(bad[:5], dtype=torch.int64, device=self.device)
        named = sorted(i for i in self._ranks.stack(first).flatten().tolist() if i >= 0)[:5]
        if named:
            raise ValueError(f"x must be finite in float32; first rows with NaN or inf: {named}: drop or repair them")


@dataclass(frozen=True)
class Frame:
    """Coordinates in which float32 distances are safe: unit rows for cosine; centred, and scaled by a power of two
    (exact) to about one, for euclidean. So data at 1e30, or far from the origin, lose nothing."""

    cosine: bool
    shift: Tensor  # (D,) float32, in scaled units
    scale: float

    @classmethod
    def of(cls, rows: Rows, metric: str, ranks: Ranks) -> "Frame":
        """The frame of a data set; the same on every rank."""
        shift = torch.zeros(rows.dim, dtype=torch.float64, device=rows.device)
        if metric == "cosine":
            return cls(True, shift.float(), 1.0)
        largest = torch.zeros((), device=rows.device)
        for _, block in rows:
            shift += block.sum(0, dtype=torch.float64)
            largest = torch.maximum(largest, block.abs().max())
        exponent = math.frexp(ranks.max(largest).item())[1]
        scale = 2.0 ** max(-126, min(126, -exponent))  # the range of float32
        return cls(False, (ranks.sum(shift) / rows.n_total * scale).float(), scale)

    def enter(self, rows: Tensor) -> Tensor:
        """float32 rows (M, D) in these coordinates; with cosine an all-zero row stays zero."""
        if not self.cosine:
            return (rows * self.scale).sub_(self.shift)
        tiny = torch.finfo(torch.float32).tiny
        rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(tiny)  # or squares overflow above 1e19
        return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(tiny)

    def leave(self, centroids: Tensor) -> Tensor:
        """float32 centroids (K, D), in the units of the data, of float64 ones in these coordinates."""
        if not self.cosine:
            return ((centroids + self.shift) / self.scale).float()
        return torch.nn.functional.normalize(centroids, dim=1).float()
