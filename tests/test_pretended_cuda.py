"""Everything a GPU would run, on a CUDA that is pretended: `pretend_cuda/cases`, each file in a process of its own.

A class a file, so that pytest-xdist gives them to several workers."""

import subprocess
import sys

import pytest
from pretend_cuda.__main__ import command
from pretend_cuda.build import HERE, environment, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
CASES = sorted(path.stem for path in (HERE / "cases").glob("*.py") if path.name != "conftest.py")


def _passes(case: str) -> None:
    """One case file under a pytest of its own."""
    run = subprocess.run(
        [sys.executable, *command([case, "-q"])], env=environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"uv run tests/pretend_cuda {case}\n{run.stdout[-20_000:]}\n{run.stderr[-5_000:]}"


class TestDevice:
    def test_cases(self) -> None:
        _passes("device")


class TestTraining:
    def test_cases(self) -> None:
        _passes("training")


def test_every_case_is_run() -> None:
    classes = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}
    assert classes == {case.replace("_", "") for case in CASES}
