"""The machine of a run: device, precision, and the ranks it is spread over."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from steady_runs import gather_rows
from steady_runs.device import use_cuda
from torch import Tensor

from pretrain.rendezvous import adopt_slurm_tasks, join_ranks
from pretrain.settings import Machine as MachineSettings


@dataclass(frozen=True)
class Machine:
    """This process among the ranks of a run, and its device.

    Attributes:
        fabric: Wraps the network for DDP and autocast.
        group: Process group of all ranks, or None if this process is alone.
    """

    fabric: Fabric
    group: Any

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def rank(self) -> int:
        return self.fabric.global_rank

    @property
    def n_ranks(self) -> int:
        return self.fabric.world_size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    @property
    def precision(self) -> str:
        """`32-true` or `bf16-mixed`."""
        return str(self.fabric._precision.precision)

    def own_part(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that all ranks have, as a view."""
        return rows.tensor_split(self.n_ranks)[self.rank]

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in order of rank: `gather(own_part(rows))` equals rows. Collective."""
        return gather_rows(rows, self.group)

    def of_first(self, flags: list[bool]) -> list[bool]:
        """The flags of the first rank, for a decision that all ranks make alike. Collective; waits for a GPU."""
        if self.group is None:
            return flags
        said = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.broadcast(said, 0, group=self.group)
        return [bool(flag) for flag in said.tolist()]

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the ranks of one number each. Collective."""
        if self.group is None:
            return value
        value = value.clone()
        dist.all_reduce(value, group=self.group)
        return value / self.n_ranks


def launch(settings: MachineSettings) -> Machine:
    """Choose device and precision; under torchrun or Slurm, join the other ranks.

    Raises:
        BadInput: If `--device cuda` finds no GPU, or Slurm's tasks are spread unevenly over the nodes.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the first line of a run says device and precision
    accelerator = "cuda" if use_cuda(settings.device) else "cpu"
    precision = settings.precision
    if precision == "auto":
        # bf16 without matrix units is slower than float32
        precision = "bf16" if accelerator == "cuda" or torch.cpu._is_amx_tile_supported() else "32"
    torch.backends.cudnn.benchmark = True
    adopt_slurm_tasks()
    n_ranks = int(os.environ.get("WORLD_SIZE", 1))
    ranks_per_node = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    strategy: DDPStrategy | str = "auto"
    if n_ranks > 1:
        timeout = timedelta(seconds=settings.rank_timeout)
        join_ranks("nccl" if accelerator == "cuda" else "gloo", timeout)
        # Memories are buffers that every rank updates alike, so broadcasting them each step would be wasted gigabytes.
        strategy = DDPStrategy(forward_sync_buffers=False, timeout=timeout)
    fabric = Fabric(
        accelerator=accelerator,
        devices=ranks_per_node,
        num_nodes=max(1, n_ranks // ranks_per_node),
        strategy=strategy,
        # Named, as Fabric would otherwise look for Slurm by itself and print advice where Slurm is installed.
        plugins=[TorchElasticEnvironment() if n_ranks > 1 else LightningEnvironment()],
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return Machine(fabric, dist.group.WORLD if n_ranks > 1 else None)
