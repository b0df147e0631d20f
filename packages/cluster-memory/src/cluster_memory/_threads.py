"""Threads that work on one block of rows each, with torch limited to one core in each thread.

torch's own parallel operations make all cores wait for each other after every operation; these threads do not."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Threads:
    """A pool of `size` threads that lives as long as the object. With size 1, work runs on the caller's thread."""

    def __init__(self, size: int) -> None:
        self._pool = self._start(size) if size > 1 else None
        self._ahead = size + 1

    @staticmethod
    def _start(size: int) -> ThreadPoolExecutor:
        """Starts threads in which torch uses one core; torch's setting for other threads stays as it was."""
        ready = threading.Barrier(size + 1)

        def begin() -> None:
            # A thread takes over torch's global number when it first asks for it, which would undo an earlier
            # set_num_threads. So ask first, then set. This also sets the number for threads that start later.
            torch.get_num_threads()
            torch.set_num_threads(1)
            ready.wait()

        n_threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(size, "cluster-memory")
        for _ in range(size):
            pool.submit(begin)
        ready.wait()
        torch.set_num_threads(n_threads)  # restores the number for threads that start later
        return pool

    def run(self, job: Callable[[], None]) -> None:
        """Runs job() on one of the threads and waits for it. On the caller's thread, torch would start parallel
        operations and wait for cores that these threads use."""
        job() if self._pool is None else self._pool.submit(job).result()

    def map(self, job: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """Yields job(item) in the order of the items. Reads at most size + 1 items ahead of the results."""
        if self._pool is None:
            yield from map(job, items)
            return
        running: deque[Future[_Result]] = deque()
        for item in items:
            running.append(self._pool.submit(job, item))
            if len(running) == self._ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
