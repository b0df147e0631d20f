"""The processes of one run: who this one is, and rows that all of them share.

Importing this module does not import torch, so that a command line is quick.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def ranks() -> tuple[int, int]:
    """(rank, number of ranks) that torchrun or Slurm's launcher gave this process; (0, 1) without one."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def launch(program: str, arguments: list[str], n: int) -> None:
    """Replace this process by torchrun with `n` processes of the same command, one a GPU.

    The program must run as `python -m PROGRAM`.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), "-m", program]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *torchrun, *arguments])


def gather_rows(rows: Tensor, group: Any) -> Tensor:
    """Concatenate the rows of all ranks in order of rank. Ranks may hold different numbers of rows. Collective.

    Args:
        rows: (n, ...), this rank's rows; the other dimensions and the dtype are the same on all ranks.
        group: Process group, or None if this process is alone.

    Returns:
        (sum of n, ...) on the device of `rows`; the rows themselves without a group.
    """
    if group is None:
        return rows
    import torch
    import torch.distributed as dist

    n = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(n) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, n, group=group)
    longest = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded, group=group)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])
