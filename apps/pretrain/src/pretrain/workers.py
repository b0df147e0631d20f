"""Processes that load images: one pool for all loaders of a run, so that scores need none of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.errors import BadInput, WorkerLost

# Makes of (epoch, indices of a batch) what a loader wants of its images. Raises BadInput.
Job = Callable[[int, Tensor], Any]


class Pool:
    """Worker processes that do the jobs of several loaders, one loader at a time.

    n_workers: processes; 0 = jobs are done here. Processes start with the first batch and live as long as the pool, so
    every loader must have its job in by then. pin_memory: results come in pinned memory, for copies to a GPU."""

    def __init__(self, n_workers: int, *, pin_memory: bool = False) -> None:
        self.n_workers, self.pin_memory = n_workers, pin_memory
        self.stream: torch.cuda.Stream | None = None  # on which all loaders of the pool make crops, one at a time
        self._jobs: list[Job] = []
        self._order: list[tuple[int, int, Tensor]] = []  # job, epoch and indices of the batches asked for
        self._loader: DataLoader[Any] | None = None

    def add(self, job: Job) -> int:
        """The number of the job, for `results`."""
        if self._loader is not None:
            raise RuntimeError("the processes of this pool are running: add every job before the first batch")
        self._jobs.append(job)
        return len(self._jobs) - 1

    def results(self, job: int, epoch: int, batches: list[Tensor]) -> Iterator[Any]:
        """What the job makes of each batch, in order. Starting it ends an earlier call that is not through.

        Raises BadInput as the job does, and WorkerLost if a process is gone."""
        self._order = [(job, epoch, batch) for batch in batches]
        if self._loader is None:
            self._loader = DataLoader(
                _Jobs(self._jobs),
                batch_size=None,
                sampler=_Order(self),
                num_workers=self.n_workers,
                persistent_workers=self.n_workers > 0,
                # pinned memory comes in powers of two, and sixteen workers are far ahead with two batches each
                prefetch_factor=(2 if self.pin_memory else 4) if self.n_workers else None,
                worker_init_fn=_leave_interrupts_to_the_main_process,
                pin_memory=self.pin_memory,
            )
        try:
            received = iter(self._loader)
            # torch's handler would raise at whatever line the training is, in the middle of a step too; without it, a
            # worker that is gone is noticed here within seconds
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for result in received:
                if isinstance(result, BadInput):
                    raise result
                yield result
        except RuntimeError as error:  # the only word of torch's loader for a worker that is gone
            if "DataLoader worker" not in str(error):
                raise
            raise WorkerLost(
                "a process that loads images was killed, most often because memory ran out: take fewer --workers, "
                "or a smaller --batch"
            ) from None


class _Jobs(Dataset[Any]):
    """What a worker process holds: the jobs, and no state."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs

    def __getitem__(self, item: tuple[int, int, Tensor]) -> Any:
        job, epoch, indices = item
        try:
            return self.jobs[job](epoch, indices)
        except BadInput as error:  # handed over, not raised: it would arrive as the worker's traceback
            return error


class _Order:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        return iter(self.pool._order)

    def __len__(self) -> int:
        return len(self.pool._order)


def default_workers(resident: bool, cuda: bool) -> int:
    """Decoding goes to other processes. Crops of a resident set are made on the GPU, or on a CPU between the steps:
    they take 6 % of one there, and a process that competes for its cores costs more (docs/log.md)."""
    if resident:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # every rank of the machine has a pool
    return max(1, min(16, cores) if cuda else cores // 2)


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
