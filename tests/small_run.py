"""Runs of seconds on one core: 120 images, a thin network, two epochs of four steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pretrain.cli import main

ROOT = Path(__file__).parents[1]
COMMON = [
    *("--data", "shapes:n=120", "--val", "shapes:n_val=60"),
    *("--arch", "resnet18", "--width", "0.125", "--stem", "imagenet"),
    *("--epochs", "2", "--batch", "30", "--k", "6"),
    *("--knn-every", "1", "--log-every", "1", "--workers", "0", "--no-report"),
    *("--device", "cpu", "--precision", "32"),  # the same on every machine: auto takes bf16 where a CPU is made for it
]
SMALL = [*COMMON, "--crops", "1x32@0.3-1", "--neck-dropout", "0.5"]  # dropout: resume must repeat it
SMALL_DEEPCLUSTER = [*COMMON, "--crops", "1x32@0.3-1", "--pca-dim", "16"]
SMALL_DEEPCLUSTER_V2 = [*COMMON, "--crops", "2x32@0.3-1", "2x16@0.1-0.4", "--hidden", "32", "--dim", "16"]
SMALL_SWAV = [*SMALL_DEEPCLUSTER_V2, "--queue", "60", "--queue-from-epoch", "0", "--freeze-prototypes-steps", "2"]
SMALL_RUNS = {
    "odc": SMALL,
    "deepcluster": SMALL_DEEPCLUSTER,
    "deepcluster_v2": SMALL_DEEPCLUSTER_V2,
    "swav": SMALL_SWAV,
}


def run(out: Path, *more: str, command: tuple[str, ...] = ("odc", *SMALL)) -> list[dict[str, Any]]:
    assert main([*command, "--out", str(out), "--quiet", *more]) == 0
    return lines(out)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def untimed(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must repeat: all but how long things took."""
    timed = ("images_per_s", "wall_s", "time_")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in metrics]


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "checkpoint.pt", weights_only=True)["method"]
    return state


def same_weights(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
