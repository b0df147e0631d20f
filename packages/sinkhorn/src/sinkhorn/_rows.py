"""Splits a matrix into blocks of rows."""

import torch
from torch import Tensor

# The largest block, as (entries, rows). Operations are cheap on a block that stays in cache, but each of them wakes all
# threads, so blocks should not be too small: 4 MiB of float32, or 512 KiB of float64, which is read and written beside
# other arrays. Column sums over 512 rows are accurate in float32. An accelerator gets large blocks, because launching
# a kernel costs more than reading a block.
_CPU = {torch.float32: (2**20, 512), torch.float64: (2**16, 512)}
_ACCELERATOR = (2**24, 2**17)


def row_blocks(matrix: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Return views of consecutive rows of matrix (N, K), sized for work in `dtype`; no views if N = 0."""
    if not len(matrix):
        return ()
    entries, rows = _CPU[dtype] if matrix.device.type == "cpu" else _ACCELERATOR
    size = max(1, min(rows, entries // matrix.shape[1]))
    return matrix.split(size) if size < len(matrix) else (matrix,)  # split costs as much as a small sum
