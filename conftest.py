"""For every test: one thread a process, as pytest runs a process a core and torch's threads would fight for them."""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch


@pytest.fixture(autouse=True)
def _threads_stay_as_they_were() -> Iterator[None]:
    """The number of threads decides the last bits of sums: what one test leaves, all that follow would compute with."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and (n := torch.get_num_threads()) != 1:
        torch.set_num_threads(1)
        pytest.fail(f"this test left torch with {n} threads")
