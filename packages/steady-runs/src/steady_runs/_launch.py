"""--gpus N: the same command once a GPU, through torchrun."""

from __future__ import annotations

import os
import sys


def ranks() -> tuple[int, int]:
    """(rank, world) that torchrun or Slurm's launcher gave this process."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def launch(app: str, arguments: list[str], n: int) -> None:
    """Replace this process by torchrun with n of it; needs the app to run as `python -m APP`."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), "-m", app]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *torchrun, *arguments])
