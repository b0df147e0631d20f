"""The precision that the header of a run names is the one that its steps compute in; seen from inside the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cluster_memory
import pytest
import sinkhorn
import torch
from pretrain.cli import main
from pretrain.methods.swav import Swav
from small_run import SMALL_RUNS, SMALL_SWAV, lines, weights
from torch import Tensor, nn


@pytest.mark.parametrize("more", [(), ("--micro-batch", "8")], ids=["whole batches", "micro-batches"])
@pytest.mark.parametrize("method", SMALL_RUNS)
def test_convolutions_of_training_steps(
    method: str,
    more: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dtypes: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    forward = nn.Conv2d.forward

    def watched(self: nn.Conv2d, x: Tensor) -> Tensor:
        y = forward(self, x)
        dtypes[torch.is_grad_enabled()].add(y.dtype)
        return y

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    losses = {}
    for precision, dtype in (("bf16", torch.bfloat16), ("32", torch.float32)):
        dtypes[True].clear()
        dtypes[False].clear()
        out = tmp_path / precision
        arguments = [method, *SMALL_RUNS[method], "--knn-every", "0", "--max-steps", "2", "--out", str(out), *more]
        assert main([*arguments, "--precision", precision]) == 0
        assert dtypes == {True: {dtype}, False: {dtype}}  # training steps; extraction of features
        assert f"({'bf16-mixed' if precision == 'bf16' else '32-true'})" in capsys.readouterr().out
        losses[precision] = next(line["loss"] for line in lines(out) if "loss" in line)
    assert losses["bf16"] != losses["32"]
    if method != "odc":  # whose first clusters differ where features do
        assert losses["bf16"] == pytest.approx(losses["32"], rel=0.05)


@pytest.mark.parametrize("error", [cluster_memory.NotFinite, sinkhorn.NotFinite])
def test_not_finite_numbers_are_answered_with_what_to_do(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoilt(self: Swav, *_: Any) -> None:
        raise error("scores hold NaN")

    monkeypatch.setattr(Swav, "after_step", spoilt)
    assert main(["swav", *SMALL_SWAV, "--quiet", "--out", str(tmp_path / "run")]) == 3
    assert "step 1: scores hold NaN; lower --lr" in capsys.readouterr().err


def test_an_error_that_is_no_bad_number_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Swav, *_: Any) -> None:
        raise ValueError("the queue has another shape")

    monkeypatch.setattr(Swav, "after_step", broken)
    arguments = ["swav", *SMALL_SWAV, "--quiet", "--out"]
    assert main([*arguments, str(tmp_path / "a")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ValueError: the queue has another shape (test_pretrain_precision.py:" in error
    assert "--lr" not in error
    trace = Path(error.split("its traceback is in ")[1].split(" (--traceback")[0])
    assert "Traceback" in trace.read_text()
    trace.unlink()
    with pytest.raises(ValueError, match="another shape"):
        main([*arguments, str(tmp_path / "b"), "--traceback"])


@pytest.mark.slow
def test_a_compiled_backbone_computes_the_same(tmp_path: Path) -> None:
    """torch.compile fuses operations, so sums are rounded otherwise; names in files stay as they are."""
    common = ["odc", *SMALL_RUNS["odc"], "--knn-every", "0", "--max-steps", "3", "--quiet", "--out"]
    losses = {}
    for compiled in ("off", "on"):
        assert main([*common, str(tmp_path / compiled), "--compile", compiled]) == 0
        losses[compiled] = [line["loss"] for line in lines(tmp_path / compiled) if "loss" in line]
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)
    assert weights(tmp_path / "on").keys() == weights(tmp_path / "off").keys()
