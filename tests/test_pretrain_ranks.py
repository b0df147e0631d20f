"""Two processes under torchrun: one run folder, one memory, and a checkpoint that one process can take up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretrain.cli import main
from small_run import ROOT, SMALL, SMALL_RUNS


def test_two_ranks_make_one_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(ROOT / "apps" / "pretrain"), "odc", *SMALL, "--out", str(out), "--max-steps", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("backbone ") == 1  # only the first rank speaks
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "loss" in line] == [1, 2, 3, 4, 5]

    memory = torch.load(out / "checkpoint.pt", weights_only=True)["method"]
    assert torch.equal(torch.bincount(memory["memory.assignments"], minlength=6), memory["memory.counts"])
    assert main(["resume", str(out), "--quiet", "--max-steps", "1000"]) == 0
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 8


@pytest.mark.parametrize("method", ["deepcluster", "deepcluster_v2", "swav"])
def test_every_method_runs_on_two_ranks(method: str, tmp_path: Path) -> None:
    """To the middle of the second epoch, clustering included; one process then ends it."""
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(ROOT / "apps" / "pretrain"), method, *SMALL_RUNS[method], "--out", str(out)]
    done = subprocess.run(
        [*command, "--max-steps", "6", "--knn-every", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert main(["resume", str(out), "--quiet", "--max-steps", "1000"]) == 0
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 8


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(ROOT / "apps" / "pretrain"), "odc", *SMALL, "--batch", "31", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "--batch 31 cannot be shared by 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()
