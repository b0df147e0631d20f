"""Which images each step uses. The order depends only on seed and step, so a run can resume at any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from steady_runs.benchmark.app import Job
from steady_runs.errors import BadInput, from_worker
from steady_runs.keys import permutation

# (position in the stream of all training images, index of the image in the data set)
Key = tuple[int, int]


class Order(Sampler[list[Key]]):
    """Batches of keys for training: this rank's part of every batch. Each pass over the images is shuffled anew.

    Args:
        n: Number of images.
        batch: Images per step over all ranks.
        job: The run; its seed and rank are used.
        first: First step.
        last: Step to stop before.
    """

    def __init__(self, n: int, batch: int, job: Job[Any], *, first: int, last: int) -> None:
        self.n, self.batch, self.job, self.steps = n, batch, job, range(first, last)

    def __iter__(self) -> Iterator[list[Key]]:
        shuffled, number, share = torch.empty(0), -1, self.batch // self.job.world
        for step in self.steps:
            keys = []
            start = step * self.batch + self.job.rank * share
            for place in range(start, start + share):
                if place // self.n != number:
                    number = place // self.n
                    shuffled = permutation(self.n, self.job.options.seed, "order", number)
                keys.append((place, int(shuffled[place % self.n])))
            yield keys


class Part(Sampler[Key]):
    """Keys for scoring: every image once, distributed over the ranks.

    Args:
        n: Number of images.
        job: The run; its rank is used.
    """

    def __init__(self, n: int, job: Job[Any]) -> None:
        self.keys = [(i, i) for i in range(job.rank, n, job.world)]

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def batches(images: Dataset[Any], job: Job[Any], order: Order | Part) -> Iterator[list[Any]]:
    """Load images in the given order.

    Args:
        images: Data set that is indexed by keys.
        job: The run; `--workers` and `--data` give the number of worker processes.
        order: Keys of each batch; with a `Part`, batches of one image.

    Yields:
        A list of samples.

    Raises:
        BadInput: If `images` raises it, also in a worker process; the message is one line.
    """
    workers = 0 if job.options.data == "shapes" else 2
    workers = workers if job.options.workers is None else job.options.workers
    how: dict[str, Any] = dict(batch_sampler=order) if isinstance(order, Order) else dict(sampler=order, batch_size=1)
    loader = DataLoader(images, **how, num_workers=workers, collate_fn=list, generator=torch.Generator())
    try:
        yield from loader
    except BadInput as error:
        raise from_worker(error) from None
