"""`pretrain.train.train` as it is, small, and looked at from outside: no loop is copied here."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pretrain.assemble import method_class
from pretrain.settings import METHODS, RunSettings
from pretrain.train import train

from benchmarks.gpu.part import Figures, Part


def settings_of(part: Part, method: str, out: Path, **more: Any) -> RunSettings:
    """A run of some steps on the drawn images, resident; sizes that a GPU feels, or seconds of a CPU."""
    several = method in ("swav", "deepcluster_v2")
    values: dict[str, Any] = part.size(
        {"data": "shapes:n=4096,n_val=256", "arch": "resnet18", "width": 1.0, "batch": 256, "k": 100},
        {"data": "shapes:n=96,n_val=16", "arch": "resnet18", "width": 0.0625, "batch": 16, "k": 8},
    )
    values |= {"crops": ("2x32@0.3-1", "2x16@0.1-0.4") if several else ("1x32@0.3-1",)}
    values |= {"stem": "cifar", "epochs": 4, "lr": 0.05, "checkpoint_every": "1000000", "knn_images": 64}
    values |= {"device": part.device.type, "out": str(out), "report": False, "quiet": True, "knn_every": 0}
    if several:
        values |= part.size({"hidden": 512, "dim": 128}, {"hidden": 32, "dim": 16}) | {"blur": 0.5}
    if method == "swav":  # a queue that is full after two steps
        batch = more.get("batch", values["batch"])
        values |= {"queue": 2 * batch, "queue_from_epoch": 0, "freeze_prototypes_steps": 1}
    if method == "deepcluster":
        values |= {"pca_dim": part.size(64, 4), "sobel": True}
    if method == "odc":
        values |= {"min_cluster": 1}  # a split waits, and is no part of a step in steady state
    return METHODS[method].model_validate({"method": method} | values | more)


@contextlib.contextmanager
def after_each_step(method: str, look: Callable[[Any, Any, torch.Tensor], None]) -> Iterator[None]:
    """look(method, run, indices) after the method's own `after_step`."""
    cls = method_class(method)
    own = cls.after_step

    def after_step(self: Any, run: Any, indices: torch.Tensor) -> None:
        own(self, run, indices)
        look(self, run, indices)

    with patch.object(cls, "after_step", after_step):
        yield


def lines_of(settings: RunSettings) -> list[Figures]:
    """metrics.jsonl of a run."""
    assert settings.out is not None
    return [json.loads(line) for line in (Path(settings.out) / "metrics.jsonl").read_text().splitlines()]


def losses_of(part: Part, method: str, n_steps: int, **more: Any) -> list[float]:
    """Of the first steps of a run."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(part, method, Path(folder) / "run", max_steps=n_steps, log_every=1, **more)
        train(settings)
        return [line["loss"] for line in lines_of(settings) if "loss" in line]
