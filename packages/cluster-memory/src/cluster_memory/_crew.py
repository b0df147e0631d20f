"""Blocks of rows on several threads, each of which keeps torch to one core: no barrier between the steps of a block."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Crew:
    """`size` threads, idle between uses, gone with the object; one thread is the caller's own."""

    def __init__(self, size: int) -> None:
        self._pool = self._start(size) if size > 1 else None
        self._ahead = size + 1

    @staticmethod
    def _start(size: int) -> ThreadPoolExecutor:
        ready = threading.Barrier(size + 1)

        def begin() -> None:
            torch.get_num_threads()  # a thread takes torch's number when it first asks: let that be now
            torch.set_num_threads(1)  # of this thread, and of threads that are yet to start
            ready.wait()

        n_threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(size, "cluster-memory")
        for _ in range(size):
            pool.submit(begin)
        ready.wait()
        torch.set_num_threads(n_threads)  # as it was, for threads that are yet to start
        return pool

    def run(self, job: Callable[[], None]) -> None:
        """job() on one of the threads: torch's own, on the caller's, would wait for cores that the others hold."""
        job() if self._pool is None else self._pool.submit(job).result()

    def map(self, job: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """job(item) in the order of the items, of which at most size + 1 are taken before a result is asked for."""
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
