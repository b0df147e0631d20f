"""Everything a GPU would run, on a CUDA that is pretended: the files of `pretend_cuda/cases`, in a few processes.

A class for each, so that pytest-xdist gives them to several workers."""

import subprocess
import sys

import pytest
from pretend_cuda.__main__ import command
from pretend_cuda.build import HERE, environment, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
CASES = sorted(path.stem for path in (HERE / "cases").glob("*.py") if path.name != "conftest.py")


def _pass(*cases: str) -> None:
    """Case files under a pytest of their own, in one process: it takes seconds to import torch."""
    run = subprocess.run(
        [sys.executable, *command([*cases, "-q"])], env=environment(), capture_output=True, text=True, check=False
    )
    shown = f"uv run tests/pretend_cuda {' '.join(cases)}\n{run.stdout[-20_000:]}\n{run.stderr[-5_000:]}"
    assert run.returncode == 0, shown


class TestPackages:
    cases = ("device", "packages_clusters", "packages_features", "packages_images")

    def test_cases(self) -> None:
        _pass(*self.cases)


class TestApps:
    cases = ("classify", "transfer")

    def test_cases(self) -> None:
        _pass(*self.cases)


class TestTraining:
    cases = ("training",)

    def test_cases(self) -> None:
        _pass(*self.cases)


class TestRanks:
    cases = ("ranks",)

    def test_cases(self) -> None:
        _pass(*self.cases)


def test_every_case_is_run() -> None:
    run = [case for value in globals().values() for case in getattr(value, "cases", ())]
    assert sorted(run) == CASES
