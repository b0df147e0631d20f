"""Runs that something is done to, and what must be left of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pretrain.assemble import method_class
from pretrain.cli import main
from small_run import SMALL_RUNS, lines, same_weights, untimed

METHOD = "deepcluster"  # the one whose runs are the shortest, where any method will do
STEPS = list(range(1, 9))


def arguments(method: str, out: Path, *more: str) -> list[str]:
    return [
        method,
        *SMALL_RUNS[method],
        "--quiet",
        "--knn-every",
        "0",
        "--checkpoint-every",
        "1",
        "--out",
        str(out),
        *more,
    ]


def last_step(out: Path) -> int:
    """Of a checkpoint that is whole and finite."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    for name, value in state["method"].items():
        assert name == "nmi" or not value.is_floating_point() or value.isfinite().all(), name
    return int(state["step"])


def one_line(error: str) -> str:
    assert error.startswith("pretrain: "), error
    assert error.count("\n") == 1, error
    return error


def resumed_as(whole: Path, out: Path) -> None:
    """`out`, resumed, becomes what the run without a fault became."""
    assert main(["resume", str(out), "--quiet"]) == 0
    same_weights(whole, out)
    assert untimed(lines(out)) == untimed(lines(whole))
    assert [line["step"] for line in lines(out) if "loss" in line] == STEPS


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, then: Callable[[], None], method: str = METHOD) -> None:
    """Have `then` happen in the middle of step `step`: after the update of the weights."""
    after_step = method_class(method).after_step

    def and_then(self: Any, run: Any, indices: Any) -> None:
        after_step(self, run, indices)
        if run.step + 1 == step:
            then()

    monkeypatch.setattr(method_class(method), "after_step", and_then)


def photos(folder: Path, n: int = 120) -> Path:
    folder.mkdir()
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40)).save(folder / f"{i:03}.jpg")
    return folder


def of_photos(folder: Path, out: Path, *more: str) -> list[str]:
    own = arguments(METHOD, out, "--resident", "off", *more)  # files are read during the run
    own[own.index("--data") + 1] = f"folder:{folder}"
    del own[own.index("--val") : own.index("--val") + 2]
    return own
