"""Where the processes of a run find each other under torchrun or `srun`, also after `torchrun --max-restarts`.

torchrun's store outlives its processes, and torch 2.13 reads in it what an earlier attempt wrote: addresses of
processes that are dead, where one rank is seconds ahead of another (pytorch/pytorch#135712, #167288). The count of
restarts would tell attempts apart on one host only. So ranks agree on a name that nobody has used before."""

from __future__ import annotations

import atexit
import os
import re
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from lightning_fabric.plugins.environments import SLURMEnvironment
from steady_runs import BadInput


def adopt_slurm_tasks() -> None:
    """Under `srun` alone, set what torchrun would: each task of a job step is a rank. Otherwise nothing happens.

    The variables of a step, not those of a job: a batch script that has eight tasks to give is itself no rank."""
    told = os.environ
    n = int(told.get("SLURM_STEP_NUM_TASKS", 1))
    if n < 2 or "WORLD_SIZE" in told:
        return
    per_node = told["SLURM_STEP_TASKS_PER_NODE"]
    if (as_many_on_each := re.fullmatch(r"(\d+)(\(x\d+\))?", per_node)) is None:  # such as 8(x4)
        raise BadInput(f"srun: {per_node} tasks on the nodes; take as many on each, such as --ntasks-per-node 8")
    root = SLURMEnvironment.resolve_root_node_address(told["SLURM_STEP_NODELIST"])
    told.setdefault("MASTER_ADDR", root)
    # jobs on one node differ in their number, steps of a job in theirs
    told.setdefault("MASTER_PORT", str(20_000 + (7 * int(told["SLURM_JOB_ID"]) + int(told["SLURM_STEP_ID"])) % 10_000))
    told |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": as_many_on_each[1], "GROUP_RANK": told["SLURM_NODEID"]}
    told |= {"RANK": told["SLURM_PROCID"], "LOCAL_RANK": told["SLURM_LOCALID"]}


def join_ranks(backend: str, timeout: timedelta) -> None:
    """Make the default process group of the ranks that torchrun's environment variables describe."""
    store, rank, world = next(iter(dist.rendezvous("env://", timeout=timeout)))
    dist.init_process_group(
        backend, store=fresh_part(store, rank, world, timeout), rank=rank, world_size=world, timeout=timeout
    )
    if backend == "nccl":
        atexit.register(dist.destroy_process_group)


def fresh_part(store: dist.Store, rank: int, world: int, timeout: timedelta) -> dist.Store:
    """A part of `store` that no earlier attempt has written in, the same on all ranks.

    Rank 0 names it, and answers whatever greeting it finds; the others take no answer but the one to their own
    greeting. A greeting that was left behind gets an answer that nobody reads, and another one once it is renewed.
    Raises DistStoreError if a rank is missing after `timeout`."""
    mine, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank == 0:
        answered: dict[int, bytes] = {}
        while not store.check([f"{mine}/{other}" for other in range(1, world)]):
            for other in range(1, world):
                greeting = store.get(f"greeting/{other}") if store.check([f"greeting/{other}"]) else None
                if greeting is not None and answered.get(other) != greeting:
                    store.set(f"answer/{other}", f"{greeting.decode()} {mine}")
                    answered[other] = greeting
            _wait(deadline, "another rank")
        return dist.PrefixStore(mine, store)
    store.set(f"greeting/{rank}", mine)
    answer = [""]
    while answer[0] != mine:
        _wait(deadline, "rank 0")
        if store.check([f"answer/{rank}"]):
            answer = store.get(f"answer/{rank}").decode().split()
    store.set(f"{answer[1]}/{rank}", "here")
    return dist.PrefixStore(answer[1], store)


def _wait(deadline: float, whom: str) -> None:
    if time.monotonic() > deadline:
        raise dist.DistStoreError(f"{whom} has not come to the rendezvous")
    time.sleep(0.02)
