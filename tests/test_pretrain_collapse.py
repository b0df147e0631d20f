"""A run that learns nothing ends with exit code 3, its figures and what to change; or says so and goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pretrain import collapse
from pretrain.cli import main
from pretrain.collapse import CollapseWatch
from small_run import SMALL_SWAV
from steady_runs import TrainingFailed
from torch import nn


class Method(nn.Module):
    k, remedies = 50, ("this (--a 1)", "that (--b 2)")

    def __init__(self, rank: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embeddings = torch.randn(64, rank, generator=generator) @ torch.randn(rank, 8, generator=generator)

    def figures(self) -> dict[str, torch.Tensor | float]:
        return {"nmi": torch.tensor(torch.nan), "change": torch.tensor(0.25), "queue": 3}


HEALTHY = {"loss": 2.0, "gradient_norm": 1.0, "rankme": 9.0, "effective_clusters": 30.0, "code_entropy": 1.0}


def watched(figures: dict[str, float], *, steps: int, stop: bool = True) -> list[str]:
    watch = CollapseWatch(Method(), 10, 0.1, stop=stop)  # type: ignore[arg-type]
    said = []
    for step in range(10, steps + 1, 10):
        line = {**HEALTHY, **figures, "step": step}
        watch.refuse_what_is_not_finite(line)
        said.append(watch.look(line))
    return [text for text in said if text is not None]


@pytest.mark.parametrize(
    ("figures", "sign"),
    [
        ({"loss": 0.995 * math.log(50)}, "ln K = 3.912"),
        ({"loss": 5.0}, "ln K"),
        ({"rankme": 1.1}, "RankMe"),
        ({"effective_clusters": 1.0}, "one cluster"),
        ({"code_entropy": math.log(50)}, "codes are uniform"),
    ],
)
def test_a_lasting_sign_ends_the_run(figures: dict[str, float], sign: str) -> None:
    with pytest.raises(TrainingFailed, match=r"this \(--a 1\); or that \(--b 2\)") as failure:
        watched(figures, steps=300)
    assert sign in str(failure.value)
    assert "--on-collapse warn" in str(failure.value)
    assert watched(figures, steps=200) == []  # 200 steps have not passed yet
    assert len(watched(figures, steps=500, stop=False)) == 1  # said once


def test_a_healthy_run_and_a_sign_with_a_break_go_on() -> None:
    assert watched({}, steps=1000) == []
    watch = CollapseWatch(Method(), 10, 0.1, stop=True)  # type: ignore[arg-type]
    for step in range(10, 1000, 10):
        watch.look({**HEALTHY, "loss": 2.0 if step % 150 == 0 else 4.0, "step": step})


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "rankme"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_ends_the_run_at_once(name: str, value: float) -> None:
    with pytest.raises(TrainingFailed, match=name.replace("_", " ")):
        watched({name: value}, steps=10, stop=False)


def test_effective_rank_of_the_embeddings() -> None:
    losses = [torch.tensor(1.0), torch.tensor(2.0)]
    found = [CollapseWatch(Method(rank), 10, 0.1, stop=True).measure(losses) for rank in (1, 2, 8)]  # type: ignore[arg-type]
    ranks = [figures.pop("rankme") for figures in found]
    assert found[0] == {
        "change": 0.25,
        "queue": 3,
        "gradient_norm": 0.0,
        "loss": 1.5,
    }  # no NMI yet
    assert ranks[0] == pytest.approx(1.0, abs=1e-3)
    assert ranks[0] < ranks[1] < ranks[2]


def test_codes_that_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """epsilon = 1 makes all codes uniform: the loss is ln K, and no step changes that."""
    out = tmp_path / "run"
    monkeypatch.setattr(collapse, "PATIENCE_STEPS", 20)
    more = ["--epsilon", "1", "--lr", "1e-6", "--epochs", "9", "--knn-every", "0", "--log-every", "4"]
    assert main(["swav", *SMALL_SWAV, "--out", str(out), *more]) == 3
    error = capsys.readouterr().err
    assert "collapsed" in error
    assert "--epsilon 0.6" in error
    assert error.count("\n") == 1
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert not lines[-1].get("final")  # the folder keeps what led to it, and the last checkpoint
    assert (out / "checkpoint.pt").exists()
