"""A collapsed run goes back to its last healthy checkpoint with a remedy, and stays exact whenever it is killed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pretrain.mend
import pytest
import torch
from forks import forked_ranks
from pretrain import collapse
from pretrain.cli import main
from pretrain.collapse import CollapseWatch
from pretrain.compare import table
from pretrain.run_folder import PretrainFolder
from pretrain.saver import Saver
from small_run import SMALL, SMALL_DEEPCLUSTER, SMALL_DEEPCLUSTER_V2, SMALL_SWAV, lines, same_weights, untimed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

COLLAPSED_AT = 10  # the first step of the false sign
PACE = ["--epochs", "6", "--log-every", "2", "--checkpoint-every", "4", "--knn-every", "2", "--quiet"]


class Killed(BaseException):
    """No part of a run catches it, as none catches SIGKILL."""


@pytest.fixture
def collapsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign of collapse from step 10 on, which only a lower learning rate than the run's first one takes away. It is
    noticed four steps later. The first rank alone sees it."""
    monkeypatch.setattr(collapse, "NOTICED", 6)
    monkeypatch.setattr(CollapseWatch, "_signs", _signs)


def _signs(watch: CollapseWatch, figures: dict[str, float]) -> dict[str, bool]:
    is_on = figures["step"] >= COLLAPSED_AT and watch.settings.lr == 0.06 and os.environ.get("RANK", "0") == "0"
    return {"a false sign": is_on}


def start(out: Path, method: str, options: list[str], *more: str) -> int:
    return main([method, *options, *PACE, "--lr", "0.06", "--out", str(out), *more])


def config(out: Path) -> dict[str, Any]:
    return tomllib.loads((out / "config.toml").read_text())


def same_runs(whole: Path, other: Path) -> None:
    same_weights(whole, other)
    assert untimed(lines(other)) == untimed(lines(whole))
    a, b = config(whole), config(other)
    assert {**a, "out": None} == {**b, "out": None}
    kept = [torch.load(out / "checkpoint.kept.pt", weights_only=True) for out in (whole, other)]
    assert kept[0]["step"] == kept[1]["step"]


def test_epsilon_of_one_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The true thing: uniform codes, noticed, mended by harder codes, and written down everywhere."""
    monkeypatch.setattr(collapse, "NOTICED", 12)
    monkeypatch.setattr(collapse, "TOLD_APART", 2)  # as if the codes had told images apart before
    out = tmp_path / "run"
    more = ["--epsilon", "1", "--lr", "1e-3", "--epochs", "8", "--knn-every", "0", "--log-every", "4"]
    assert main(["swav", *SMALL_SWAV, *more, "--report", "--out", str(out)]) == 0
    [said] = [line for line in capsys.readouterr().out.splitlines() if "(mend " in line]
    assert "collapsed (" in said
    assert "the codes are uniform from step" in said
    assert "back to step" in said
    assert "with --epsilon-of-spread 0.3 (mend 1 of 3)" in said
    metrics = lines(out)
    [at] = [i for i, line in enumerate(metrics) if "mended" in line]
    mended = metrics[at]
    assert mended["mended"] == "epsilon_of_spread not given -> 0.3"
    assert mended["collapsed_step"] > mended["step"]
    assert "the codes are uniform" in mended["sign"]
    assert [line["step"] for line in metrics if "loss" in line] == list(range(4, 33, 4))  # none is there twice
    healthy = [line["code_entropy"] for line in metrics[at:] if "loss" in line]
    assert max(healthy) < 1.7  # ln 6 = 1.792
    assert config(out)["epsilon_of_spread"] == 0.3
    assert "epsilon_of_spread not given -> 0.3; collapsed at step" in config(out)["about"]["mends"][0]
    assert "epsilon_of_spread not given -&gt; 0.3" in (out / "report.html").read_text()
    assert table([str(out)]).row_count == 1
    assert main(["--recipe", str(out / "config.toml"), "--max-steps", "1", "--out", str(tmp_path / "again")]) == 0
    assert config(tmp_path / "again")["epsilon_of_spread"] == 0.3


def test_three_mends_and_then_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(collapse, "NOTICED", 6)
    monkeypatch.setattr(CollapseWatch, "_signs", lambda watch, figures: {"a false sign": figures["step"] >= 6})
    out = tmp_path / "run"
    assert start(out, "swav", SMALL_SWAV) == 3
    error = capsys.readouterr().err
    assert "step 10: collapsed, a false sign from step 6 on" in error
    assert "after 3 mends" in error
    assert error.count("\n") == 1
    mends = [line["mended"] for line in lines(out) if "mended" in line]
    assert mends == [
        "epsilon 0.02 -> 0.012",
        "freeze_prototypes_steps 2 -> 204",
        "lr 0.06 -> 0.02",
    ]
    assert "about" in config(out)
    assert main(["resume", str(out), "--quiet"]) == 3  # and the mends of a run do not begin again
    assert main(["resume", str(out), "--quiet", "--on-collapse", "warn"]) == 0


KILLS: dict[str, Callable[[Any], None]] = {}


def kill(at: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def named(patch: Callable[[Any], None]) -> Callable[[Any], None]:
        KILLS[at] = patch
        return patch

    return named


def die(*_: Any, **__: Any) -> None:
    raise Killed


@kill("before the mended state is saved")
def _before_the_save(monkeypatch: Any) -> None:
    monkeypatch.setattr(pretrain.mend, "_healthy", die)


@kill("when it is saved, and nothing else written")
def _before_the_files(monkeypatch: Any) -> None:
    monkeypatch.setattr(pretrain.mend, "bring_up_to_date", die)


@kill("between config.toml and metrics.jsonl")
def _before_the_line(monkeypatch: Any) -> None:
    append = PretrainFolder.append_metrics
    monkeypatch.setattr(
        PretrainFolder, "append_metrics", lambda folder, line: die() if "mended" in line else append(folder, line)
    )


@kill("after the mend, before the next checkpoint")
def _after_the_mend(monkeypatch: Any) -> None:
    after_step = Saver.after_step

    def counted(saver: Saver) -> None:
        if saver.state.mends and saver.state.step == 11:
            raise Killed
        after_step(saver)

    monkeypatch.setattr(Saver, "after_step", counted)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "swav"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "NOTICED", 6)
        patch.setattr(CollapseWatch, "_signs", _signs)
        assert start(out, "swav", SMALL_SWAV) == 0
    return out


def test_three_remedies_add_up(whole: Path) -> None:
    mends = [line for line in lines(whole) if "mended" in line]
    assert [line["mended"] for line in mends] == [
        "epsilon 0.02 -> 0.012",
        "freeze_prototypes_steps 2 -> 208",
        "lr 0.06 -> 0.02",
    ]
    assert all(line["step"] == 8 and line["collapsed_step"] == 14 for line in mends)
    now = config(whole)
    assert (now["epsilon"], now["freeze_prototypes_steps"], now["lr"]) == (0.012, 208, 0.02)
    groups = torch.load(whole / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [group["frozen_steps"] for group in groups] == [0, 208]
    steps = [line["step"] for line in lines(whole) if "loss" in line]
    assert steps == list(range(2, 25, 2))
    assert [line["step"] for line in lines(whole) if "knn_top1" in line] == [0, 8, 16, 24]
    events = EventAccumulator(str(whole / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == steps


@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=[] if at == list(KILLS)[-1] else [pytest.mark.slow]) for at in KILLS]
)
def test_killed_around_a_mend_is_as_if_nothing_had_been(
    at: str, whole: Path, tmp_path: Path, collapsing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        KILLS[at](patch)
        with pytest.raises(Killed):
            start(out, "swav", SMALL_SWAV)
    assert main(["resume", str(out), "--quiet"]) == 0
    same_runs(whole, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [("odc", SMALL), ("deepcluster", SMALL_DEEPCLUSTER), ("deepcluster_v2", SMALL_DEEPCLUSTER_V2)],
)
def test_stopped_before_and_after_a_mend(method: str, options: list[str], tmp_path: Path, collapsing: None) -> None:
    """The sign is noticed at step 14, and the run goes back to step 8. Stops keep nothing to go back to."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(whole, method, options) == 0
    assert start(parts, method, options, "--max-steps", "9") == 0
    assert "about" not in config(parts)
    for last in ("10", "18", "24"):
        assert main(["resume", str(parts), "--quiet", "--max-steps", last]) == 0
    same_weights(whole, parts)
    for out in (whole, parts):
        assert [(line["step"], line["mended"]) for line in lines(out) if "mended" in line] == [(8, "lr 0.06 -> 0.02")]


@pytest.mark.slow
def test_a_restarted_command_finds_its_mended_run(
    tmp_path: Path, collapsing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        _after_the_mend(patch)
        with pytest.raises(Killed):
            start(out, "odc", SMALL)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert start(out, "odc", SMALL) == 0
    assert lines(out)[-1]["final"]
    assert start(out, "odc", SMALL, "--seed", "1") == 2  # another command does not


def test_no_healthy_checkpoint_is_no_mend(tmp_path: Path, collapsing: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert start(out, "odc", SMALL, "--max-steps", "8") == 0
    kept = out / "checkpoint.kept.pt"
    kept.write_bytes(kept.read_bytes()[:-100])  # also the last one: they are one file
    os.replace(out / "checkpoint.previous.pt", out / "checkpoint.pt")
    assert main(["resume", str(out), "--quiet", "--max-steps", "24", "--checkpoint-every", "1000"]) == 3
    assert "there is no healthy checkpoint to go back to" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_mend_alike(tmp_path: Path, collapsing: None) -> None:
    """The sign is on the first rank only, and the other one does not know the folder."""
    out = tmp_path / "run"
    done = forked_ranks(2, lambda: start(out, "swav", SMALL_SWAV), tmp_path / "said")
    assert done.codes == [0, 0], done.errors
    assert [line["step"] for line in lines(out) if "mended" in line] == [8, 8, 8]
    assert config(out)["lr"] == 0.02
