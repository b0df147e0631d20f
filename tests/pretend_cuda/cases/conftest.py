from collections.abc import Iterator

import pytest
from pretend_cuda.device import Device, pretended, start_autograd


@pytest.fixture(scope="module", autouse=True)
def _autograd_knows_the_devices(request: pytest.FixtureRequest) -> None:
    """Its threads do not survive a fork, so what forks runs first (`__main__.py`) and starts them in its children."""
    if not getattr(request.module, "FORKS", False):
        start_autograd()


@pytest.fixture
def cuda() -> Iterator[Device]:
    """Pretended CUDA for the length of a test."""
    with pretended() as device:
        yield device
