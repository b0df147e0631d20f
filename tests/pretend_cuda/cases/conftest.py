from collections.abc import Iterator

import pytest
from pretend_cuda.device import Device, pretended, start_autograd

start_autograd()


@pytest.fixture
def cuda() -> Iterator[Device]:
    """Pretended CUDA for the length of a test."""
    with pretended() as device:
        yield device
