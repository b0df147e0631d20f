"""NaN, infinity and what explodes: the run ends in one line, and no checkpoint holds any of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_run import METHOD, arguments, last_step, one_line
from pretrain.cli import main
from pretrain.loader import Loader
from small_run import SMALL_RUNS

slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "log_every"),
    [
        (METHOD, "1"),
        *(pytest.param(method, "1", marks=slow) for method in SMALL_RUNS if method != METHOD),
        *(pytest.param(method, "100", marks=slow) for method in SMALL_RUNS),
    ],
)
def test_nan_in_a_batch(
    method: str, log_every: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pixel, in the sixth step: found when a line is written, or else before a checkpoint is."""
    batches, n_batches = Loader.batches, 0

    def spoilt(self: Loader, epoch: int, indices: list[torch.Tensor], clock: Any = None) -> Iterator[Any]:
        nonlocal n_batches
        for crops, rows in batches(self, epoch, indices, clock):
            if clock is not None:  # a batch to learn from
                n_batches += 1
                if n_batches == 6:
                    crops[0][3, 1, 5, 7] = torch.nan
            yield crops, rows

    monkeypatch.setattr(Loader, "batches", spoilt)
    out = tmp_path / "run"
    assert main(arguments(method, out, "--log-every", log_every)) == 3
    assert "step 6" in one_line(capsys.readouterr().err)
    assert last_step(out) == 5
    monkeypatch.undo()
    assert main(["resume", str(out), "--quiet"]) == 0
    assert last_step(out) == 8


@slow  # test_pretrain_run.py has one for every day
@pytest.mark.parametrize("method", SMALL_RUNS)
def test_a_loss_that_explodes(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(arguments(method, out, "--lr", "1e30")) == 3
    assert "lower --lr" in one_line(capsys.readouterr().err)
    last_step(out)


@pytest.mark.parametrize("method", [METHOD, *(pytest.param(m, marks=slow) for m in SMALL_RUNS if m != METHOD)])
def test_nan_in_the_images_of_a_clustering(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = Loader.batches

    def spoilt(self: Loader, epoch: int, indices: list[torch.Tensor], clock: Any = None) -> Iterator[Any]:
        for crops, rows in batches(self, epoch, indices, clock):
            crops[0][0, 1, 5, 7] = torch.nan
            yield crops, rows

    monkeypatch.setattr(Loader, "batches", spoilt)
    assert main(arguments(method, tmp_path / "run")) == 3
    one_line(capsys.readouterr().err)
