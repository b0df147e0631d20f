"""Processes that load images: one pool for all loaders of a run, so that scores start no processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from steady_runs import BadInput, WorkerLost
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# (epoch, indices of a batch) -> what a loader wants of these images. Raises BadInput.
Job = Callable[[int, Tensor], Any]


class Pool:
    """Worker processes that do the jobs of several loaders, one loader at a time.

    The processes start with the first batch and live as long as the pool. So every loader adds its job before that.

    Args:
        n_workers: Processes; 0 = jobs are done in this process.
        pin_memory: Return results in pinned memory, for copies to a GPU.
    """

    def __init__(self, n_workers: int, *, pin_memory: bool = False) -> None:
        self.n_workers, self.pin_memory = n_workers, pin_memory
        self.stream: torch.cuda.Stream | None = None  # all loaders of the pool make crops on it, one at a time
        self._jobs: list[Job] = []
        self._order: list[tuple[int, int, Tensor]] = []  # job, epoch and indices of the batches asked for
        self._loader: DataLoader[Any] | None = None

    def add(self, job: Job) -> int:
        """Add a job. Returns its number, for `results`."""
        if self._loader is not None:
            raise RuntimeError("the processes of this pool are running: add every job before the first batch")
        self._jobs.append(job)
        return len(self._jobs) - 1

    def results(self, job: int, epoch: int, batches: list[Tensor]) -> Iterator[Any]:
        """Yield the job's result for each batch, in order. A new call ends an earlier one that is unfinished.

        Raises:
            BadInput: As the job does.
            WorkerLost: If a process is gone.
        """
        self._order = [(job, epoch, batch) for batch in batches]
        if self._loader is None:
            self._loader = DataLoader(
                _Jobs(self._jobs),
                batch_size=None,
                sampler=_Order(self),
                num_workers=self.n_workers,
                persistent_workers=self.n_workers > 0,
                # Two batches each are enough ahead with the sixteen workers of a GPU, and save pinned memory, whose
                # allocations are rounded up to powers of two.
                prefetch_factor=(2 if self.pin_memory else 4) if self.n_workers else None,
                worker_init_fn=_leave_interrupts_to_the_main_process,
                pin_memory=self.pin_memory,
            )
        try:
            received = iter(self._loader)
            # torch's handler would raise at any line, also in the middle of a training step. Without it, the loop
            # below notices a lost worker within seconds.
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
        except BadInput as error:  # returned, as a raised one would arrive with the worker's traceback
            return error


class _Order:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        return iter(self.pool._order)

    def __len__(self) -> int:
        return len(self.pool._order)


def default_workers(resident: bool, cuda: bool) -> int:
    """Number of worker processes per rank; 0 for a resident set, which needs no decoding.

    On a CPU, crops of a resident set take 6 % of a step; worker processes, competing for the same cores, cost more
    (docs/log.md).
    """
    if resident:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # every rank of the machine has a pool
    return max(1, min(16, cores) if cuda else cores // 2)


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
