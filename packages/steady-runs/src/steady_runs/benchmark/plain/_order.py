"""Which images a step sees. A function of seed and step alone, so that a run can go on anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from steady_runs._errors import BadInput, from_worker
from steady_runs._job import Job

Key = tuple[int, int]  # (place in the stream of all images, index of the image)


def seed_of(*parts: int | str) -> int:
    """63 bits out of any keys; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))


class Order(Sampler[list[Key]]):
    """This rank's part of each batch, of step `first` up to but not `last`: one shuffled pass after the other."""

    def __init__(self, n: int, batch: int, job: Job, *, first: int, last: int) -> None:
        self.n, self.batch, self.job, self.steps = n, batch, job, range(first, last)

    def __iter__(self) -> Iterator[list[Key]]:
        shuffled, number, share = torch.empty(0), -1, self.batch // self.job.world
        for step in self.steps:
            keys = []
            start = step * self.batch + self.job.rank * share
            for place in range(start, start + share):
                if place // self.n != number:
                    number = place // self.n
                    shuffled = torch.randperm(self.n, generator=generator(self.job.options.seed, "order", number))
                keys.append((place, int(shuffled[place % self.n])))
            yield keys


class Part(Sampler[Key]):
    """Every image once, shared by the ranks."""

    def __init__(self, n: int, job: Job) -> None:
        self.keys = [(i, i) for i in range(job.rank, n, job.world)]

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def batches(images: Dataset[Any], job: Job, order: Order | Part) -> Iterator[list[Any]]:
    """Lists of what `images` gives for the keys of `order`. BadInput as one line, also out of a worker process."""
    workers = 0 if job.options.data == "shapes" else 2
    workers = workers if job.options.workers is None else job.options.workers
    how: dict[str, Any] = dict(batch_sampler=order) if isinstance(order, Order) else dict(sampler=order, batch_size=1)
    loader = DataLoader(images, **how, num_workers=workers, collate_fn=list, generator=torch.Generator())
    try:
        yield from loader
    except BadInput as error:  # a worker puts its traceback in front
        raise from_worker(error) from None
