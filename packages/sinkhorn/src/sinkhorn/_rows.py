"""Reading a matrix in blocks of rows."""

import torch
from torch import Tensor

# (entries, rows) of a block at most. Operations on a block that stays in cache are cheap, but each of them wakes all
# threads: so 4 MiB of float32, and 512 KiB of float64 beside what it is read from and written to. float32 sums down
# 512 rows are accurate. On an accelerator a launch costs more than a reading: large blocks.
_CPU = {torch.float32: (2**20, 512), torch.float64: (2**16, 512)}
_ACCELERATOR = (2**24, 2**17)


def row_blocks(matrix: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Views of consecutive rows of matrix (N, K), none if N = 0, of a size for work in `dtype`."""
    if not len(matrix):
        return ()
    entries, rows = _CPU[dtype] if matrix.device.type == "cpu" else _ACCELERATOR
    size = max(1, min(rows, entries // matrix.shape[1]))
    return matrix.split(size) if size < len(matrix) else (matrix,)  # split takes as long as a small sum
