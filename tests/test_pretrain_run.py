"""A run: its folder, the same numbers twice, resume as if nothing had happened, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pretrain.cli import main
from small_run import ROOT, SMALL, SMALL_RUNS, lines, run, same_weights, untimed
from sobel_resnet import load_backbone


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out, "--report")
    return out


def test_folder_is_complete(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names >= {
        "config.toml",
        "metrics.jsonl",
        "checkpoint.pt",
        "backbone.safetensors",
        "report.html",
        "tensorboard",
    }
    final = lines(whole)[-1]
    assert final["final"] is True
    assert final["knn_top1"] >= 0
    assert final["wall_s"] > 0
    steps = [line["step"] for line in lines(whole) if "loss" in line]
    assert steps == list(range(1, 9))
    _, report = load_backbone(whole / "backbone.safetensors")
    assert report.metadata["method"] == "odc"


def test_report_needs_nothing_from_outside(whole: Path) -> None:
    html = (whole / "report.html").read_text()
    assert html.count("<svg") == 3
    assert html.count("data:image/png;base64,") >= 6
    assert 'src="http' not in html
    assert "@import" not in html


def test_same_seed_same_numbers(whole: Path, tmp_path: Path) -> None:
    again = run(tmp_path / "again", "--workers", "2")
    assert untimed(again) == untimed(lines(whole))
    other = run(tmp_path / "other", "--seed", "1")
    assert untimed(other) != untimed(lines(whole))


def test_config_repeats_the_run(whole: Path, tmp_path: Path) -> None:
    again = run(tmp_path / "again", command=("--recipe", str(whole / "config.toml"), "--no-report"))
    assert untimed(again) == untimed(lines(whole))


@pytest.mark.parametrize("steps", [4, 6])
def test_resume_equals_no_interruption(whole: Path, tmp_path: Path, steps: int) -> None:
    out = tmp_path / "run"
    run(out, "--max-steps", str(steps))
    assert main(["resume", str(out), "--quiet", "--max-steps", "1000"]) == 0
    assert untimed(lines(out)) == untimed(lines(whole))
    same_weights(whole, out)


@pytest.mark.parametrize("method", [name for name in SMALL_RUNS if name != "odc"])
def test_every_method_repeats_itself_and_resumes_in_mid_epoch(method: str, tmp_path: Path) -> None:
    command = (method, *SMALL_RUNS[method])
    once = run(tmp_path / "once", command=command)
    run(tmp_path / "halves", "--max-steps", "6", command=command)
    assert main(["resume", str(tmp_path / "halves"), "--quiet", "--max-steps", "1000"]) == 0
    assert untimed(lines(tmp_path / "halves")) == untimed(once)
    same_weights(tmp_path / "once", tmp_path / "halves")
    assert [line["step"] for line in once if "loss" in line] == list(range(1, 9))


def test_resume_of_a_damaged_checkpoint_takes_the_one_before(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, "--max-steps", "6")
    content = (out / "checkpoint.pt").read_bytes()
    (out / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    assert main(["resume", str(out), "--quiet", "--max-steps", "1000"]) == 0
    assert untimed(lines(out)) == untimed(lines(whole))


def test_interrupt_writes_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, str(ROOT / "apps/pretrain"), "odc", *SMALL, "--epochs", "1000", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 240
        while not (out / "metrics.jsonl").exists() or not any("loss" in line for line in lines(out)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.count("\n") == 1
    assert "pretrain resume" in error
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert step >= max(line["step"] for line in lines(out))


def test_max_steps_changes_nothing_else(whole: Path, tmp_path: Path) -> None:
    short = run(tmp_path / "short", "--max-steps", "3")
    losses = [line["loss"] for line in lines(whole) if "loss" in line]
    assert [line["loss"] for line in short if "loss" in line] == losses[:3]


def test_a_loss_that_is_not_finite_ends_in_exit_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["odc", *SMALL, "--out", str(tmp_path / "run"), "--lr", "1e30", "--quiet"]) == 3
    error = capsys.readouterr().err
    assert "lower --lr" in error
    assert error.count("\n") == 1
