"""What several ranks use, on one: collectives, DDP, SyncBatchNorm, torchrun. NCCL takes no two ranks on one GPU.

Nothing crosses a wire, so this shows that the calls are legal under NCCL and change no result. Without a GPU, gloo."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from cluster_memory import EpochBank, KMeans, OnlineClusters
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from pretrain.assemble import assemble_method
from pretrain.launch import Machine
from sinkhorn import EmbeddingQueue, sinkhorn_knopp
from torch import Tensor

from benchmarks.gpu.part import Figures, NotRun, Part
from benchmarks.gpu.training import losses_of

ROOT = Path(__file__).parents[3]
METHODS = ("deepcluster", "odc", "deepcluster_v2", "swav")


def run(part: Part) -> None:
    part.try_("torchrun, one rank", lambda: under_torchrun(part))
    part.try_("a group of one rank", lambda: join(part))
    if part.rows[-1]["result"] != "ok":
        return
    for check in (sinkhorn, queue, kmeans, online, bank):
        part.try_(f"{check.__name__} with a group", lambda check=check: same(check, part))
    for method in METHODS:
        part.try_(f"{method} with DDP, SyncBatchNorm, a group and micro-batches", lambda m=method: trained(part, m))
    dist.destroy_process_group()


def under_torchrun(part: Part) -> Figures:
    """Of a whole run, by its exit code."""
    _needs_real(part)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    command += ["--module", "benchmarks.gpu.parts.one_rank", part.mode]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    print(done.stdout[-3000:], done.stderr[-3000:])
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"ok": done.returncode == 0, "exit code": done.returncode} | ({"text": last} if done.returncode else {})


def join(part: Part) -> Figures:
    _needs_real(part)
    backend = "nccl" if part.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    x = torch.ones(3, device=part.device)
    dist.all_reduce(x)
    return {"ok": x.tolist() == [1, 1, 1], "backend": backend}


def _needs_real(part: Part) -> None:
    if part.mode == "pretend":
        raise NotRun("needs a GPU")


def same(check: Any, part: Part) -> Figures:
    alone, in_group = check(part, None), check(part, dist.group.WORLD)
    return {"ok": all(torch.equal(a, b) for a, b in zip(alone, in_group, strict=True))}


def rows(part: Part, n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).to(part.device)


def sinkhorn(part: Part, group: Any) -> list[Tensor]:
    return [sinkhorn_knopp(rows(part, 64, 30) / 6, extra=rows(part, 32, 30, 1) / 6, group=group)]


def queue(part: Part, group: Any) -> list[Tensor]:
    kept = EmbeddingQueue(2, 40, 8, group=group).to(part.device)
    for seed in range(4):
        kept.push(rows(part, 32, 8, seed).view(2, 16, 8))
    return [kept.embeddings, kept.local()]


def kmeans(part: Part, group: Any) -> list[Tensor]:
    found = KMeans(12, n_iters=5, group=group).fit(rows(part, 2000, 16))
    return [found.centroids, found.assignments, found.counts]


def online(part: Part, group: Any) -> list[Tensor]:
    x = rows(part, 600, 16)
    memory = OnlineClusters(600, 16, 12, group=group).to(part.device)
    memory.initialise(x, torch.arange(600, device=part.device) % 12)
    for first in range(0, 600, 60):
        memory.update(torch.arange(first, first + 60, device=part.device), x[first : first + 60] + 0.1)
        memory.update_centroids()
        memory.split_small_clusters()
    return [memory.bank, memory.assignments, memory.centroids, memory.sums]


def bank(part: Part, group: Any) -> list[Tensor]:
    kept = EpochBank(200, 8, 2, group=group).to(part.device)
    kept.write(torch.arange(200, device=part.device), rows(part, 400, 8).view(2, 200, 8))
    return list(kept.cluster(10, 2, 5, seed=0, epoch=0))


def trained(part: Part, method: str) -> Figures:
    """Against training with micro-batches alone, in float32.

    With one rank torch's SyncBatchNorm is plain batch norm: its own kernels are not tested. Sums may come in another
    order, and a network that has hardly learnt makes more of that with each step: the first has a bound."""
    more: dict[str, Any] = {"micro_batch": part.size(64, 8), "precision": "32"}
    more |= {"neck_dropout": 0.0} if method == "odc" else {}
    alone = losses_of(part, method, 3, **more)

    def grouped(settings: Any, n: int, _: Any, *, bn_group: Any, cuda: bool) -> Any:
        return assemble_method(settings, n, dist.group.WORLD, bn_group=dist.group.WORLD, cuda=cuda)

    machine = Machine(with_ddp(part), None)
    with patch("pretrain.assemble.assemble_method", grouped), patch("pretrain.train.launch", lambda _: machine):
        found = losses_of(part, method, 3, **more)
    off = [abs(a / b - 1) for a, b in zip(found, alone, strict=True)]
    return {"ok": off[0] < 1e-4, "loss off, step 1": off[0], "step 3": off[-1]}


def with_ddp(part: Part) -> Fabric:
    """As `pretrain.launch` has it for several ranks. Before torch 2.13, DDP knew `broadcast_buffers` alone."""
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
    }  # the group is there; Fabric reads them all the same
    fabric = Fabric(accelerator=part.device.type, strategy=DDPStrategy(**{name: False}), devices=1, precision="32-true")
    fabric.launch()
    return fabric


def main() -> None:
    """One process of torchrun."""
    part = Part("one_rank", sys.argv[1], Path(os.devnull), 300)
    print("losses", losses_of(part, "swav", 3))


if __name__ == "__main__":
    main()
