"""A collapse is noticed within 100 steps of its beginning, a healthy beginning is none, and what is said then."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pretrain import collapse
from pretrain.cli import main
from pretrain.collapse import Collapsed, CollapseWatch
from pretrain.method import Remedy
from pretrain.settings import OdcSettings
from small_run import SMALL_SWAV
from steady_runs import TrainingFailed
from torch import nn


class Method(nn.Module):
    k, renews_targets, frozen_steps = 50, False, 0

    def __init__(self, rank: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embeddings = torch.randn(64, rank, generator=generator) @ torch.randn(rank, 8, generator=generator)

    def figures(self) -> dict[str, torch.Tensor | float]:
        return {"nmi": torch.tensor(torch.nan), "change": torch.tensor(0.25), "queue": 3}

    def remedies(self, step: int, steps_per_epoch: int) -> list[Remedy]:
        return [Remedy("this", {"lr": 0.1}), Remedy("that (--b 2)")]


HEALTHY = {"loss": 2.0, "gradient_norm": 1.0, "rankme": 9.0, "effective_clusters": 30.0, "code_entropy": 1.0}
LN_K = math.log(50)
AT_ONCE: list[dict[str, float]] = [{"rankme": 1.1}, {"effective_clusters": 1.0}, {"code_entropy": LN_K}]


def watch(
    mode: str = "stop", *, epoch: int = 10, every: int = 10, frozen: int = 0, renews: bool = False
) -> CollapseWatch:
    method = Method()
    method.frozen_steps, method.renews_targets = frozen, renews
    settings = OdcSettings.model_validate({"on_collapse": mode, "log_every": every, "lr": 0.3})
    return CollapseWatch(method, settings, epoch)  # type: ignore[arg-type]


def noticed(watch: CollapseWatch, figures: dict[str, float], *, first: int, last: int) -> int | None:
    """The step at which a collapse is noticed that shows `figures` after step `first`; None if it is not."""
    every = watch.settings.log_every
    for step in range(every, last + 1, every):
        line = {**HEALTHY, **(figures if step > first else {}), "step": step}
        watch.refuse_what_is_not_finite(line)
        try:
            said = watch.look(line)
        except (TrainingFailed, Collapsed):
            return step
        if said is not None:
            return step
    return None


@pytest.mark.parametrize("every", [1, 3, 10, 30, 50, 70, 100])
@pytest.mark.parametrize("figures", [*AT_ONCE, {"loss": LN_K}], ids=str)
def test_a_collapse_is_noticed_within_100_steps(figures: dict[str, float], every: int) -> None:
    for epoch, first in [(10, 400), (5000, 400), (5000, 440)]:
        step = noticed(watch(epoch=epoch, every=every), figures, first=first, last=1000)
        assert step is not None
        assert first < step <= first + 100 + (first % every > 0) * every  # it cannot be seen before the next line


@pytest.mark.parametrize("figures", [f for f in AT_ONCE if "code_entropy" not in f], ids=str)
def test_a_collapse_from_the_first_step_is_noticed(figures: dict[str, float]) -> None:
    assert noticed(watch(epoch=5000, frozen=5000), {"loss": 4.2, **figures}, first=0, last=1000) == 100


def test_codes_may_be_uniform_at_first() -> None:
    """Scores of a large untrained network differ so little that the published epsilon gives uniform codes."""
    beginning = {"loss": LN_K, "code_entropy": LN_K}
    assert noticed(watch(epoch=5000), beginning, first=0, last=9000) is None
    assert noticed(watch(epoch=10), beginning, first=0, last=1000) == 210


def test_long_after_a_line_a_state_is_not_known_to_be_healthy() -> None:
    assert all(watch(every=every).is_healthy(step) for every in (1, 10, 50) for step in range(200))
    assert [step for step in range(250) if watch(every=100).is_healthy(step)] == [
        *range(51),
        *range(100, 151),
        *range(200, 250),
    ]


def test_lines_that_are_rare_are_enough_by_themselves() -> None:
    assert noticed(watch(every=1000), {"rankme": 1.1}, first=0, last=5000) == 1000


@pytest.mark.parametrize("loss", [0.995 * LN_K, LN_K, 5.0])
def test_a_long_healthy_beginning_is_no_collapse(loss: float) -> None:
    """The loss is near ln K for thousands of steps, while prototypes are frozen and codes tell images apart."""
    beginning = {"loss": loss, "code_entropy": 0.95 * LN_K, "rankme": 3.0}
    assert noticed(watch(epoch=5000), beginning, first=0, last=9000) is None
    assert noticed(watch(epoch=5000), beginning, first=0, last=20_000) == 10_010  # learns nothing for two epochs
    assert noticed(watch(epoch=10, frozen=700), beginning, first=0, last=1000) == 700
    assert noticed(watch(epoch=10), beginning, first=0, last=1000) == 210


def test_new_targets_may_raise_the_loss() -> None:
    assert noticed(watch(epoch=5000, renews=True), {"loss": LN_K}, first=400, last=9000) is None


@pytest.mark.parametrize(
    ("figures", "sign"),
    [
        ({"loss": 0.995 * LN_K}, "ln K = 3.912"),
        ({"loss": 5.0}, "ln K"),
        ({"rankme": 1.1}, "RankMe"),
        ({"effective_clusters": 1.0}, "one cluster"),
        ({"code_entropy": LN_K}, "codes are uniform"),
    ],
)
def test_what_is_said_of_a_collapse(figures: dict[str, float], sign: str) -> None:
    collapsed = {**HEALTHY, **figures}
    for mode, error in (("stop", TrainingFailed), ("mend", Collapsed)):
        one = watch(mode)
        one.look({**HEALTHY, "step": 10})
        for step in range(20, 110, 10):
            assert one.look({**collapsed, "step": step}) is None
            assert not one.is_healthy(step)
        with pytest.raises(error, match="step 110: collapsed") as failure:
            one.look({**collapsed, "step": 110})
        assert sign in str(failure.value)
        assert "from step 20 on" in str(failure.value)
        assert (mode == "stop") == ("try this (--lr 0.1); or that (--b 2). --on-collapse warn" in str(failure.value))


def test_a_warning_is_said_once() -> None:
    one = watch("warn")
    said = [one.look({**HEALTHY, "rankme": 1.1, "step": step}) for step in range(10, 1000, 10)]
    assert sum(text is not None for text in said) == 1


def test_a_sign_with_breaks_is_no_collapse() -> None:
    one = watch()
    for step in range(10, 1000, 10):
        one.look({**HEALTHY, "rankme": 9.0 if step % 80 == 0 else 1.1, "step": step})
    assert noticed(watch(), {}, first=0, last=1000) is None


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "rankme"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_ends_the_run_at_once(name: str, value: float) -> None:
    with pytest.raises(TrainingFailed, match=name.replace("_", " ")):
        watch().refuse_what_is_not_finite({**HEALTHY, name: value, "step": 10})


def test_effective_rank_of_the_embeddings() -> None:
    losses = [torch.tensor(1.0), torch.tensor(2.0)]
    found = [CollapseWatch(Method(rank), OdcSettings.model_validate({}), 10).measure(losses) for rank in (1, 2, 8)]  # type: ignore[arg-type]
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
    monkeypatch.setattr(collapse, "NOTICED", 20)
    monkeypatch.setattr(collapse, "TOLD_APART", 2)  # as if the codes had told images apart before
    more = ["--epsilon", "1", "--lr", "1e-6", "--epochs", "9", "--knn-every", "0", "--log-every", "4"]
    assert main(["swav", *SMALL_SWAV, "--out", str(out), *more, "--on-collapse", "stop"]) == 3
    error = capsys.readouterr().err
    assert "collapsed, " in error
    assert "the codes are uniform" in error
    assert "--epsilon-of-spread 0.3" in error
    assert error.count("\n") == 1
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert not lines[-1].get("final")  # the folder keeps what led to it, and the last checkpoint
    assert (out / "checkpoint.pt").exists()
    assert (out / "checkpoint.kept.pt").exists()
    assert main(["resume", str(out), "--on-collapse", "mend", "--max-steps", "32"]) == 0  # as the message says
    assert "with --epsilon-of-spread 0.3 (mend 1 of 3)" in capsys.readouterr().out


def test_the_first_rank_decides_for_all() -> None:
    """Only its codes have told images apart before, and only its loss has fallen."""
    sent: list[list[bool]] = []

    def first_agrees(flags: list[bool]) -> list[bool]:
        sent.append(flags)
        return flags

    first, other = watch("mend", epoch=5000), watch("mend", epoch=5000)
    first.agree = first_agrees
    at = noticed_after(first, {"loss": 2.0, "code_entropy": 1.0})
    other.agree = lambda _: sent.pop(0)
    assert noticed_after(other, {"loss": 3.8, "code_entropy": 3.88}) == at == 150


def noticed_after(one: CollapseWatch, before: dict[str, float]) -> int | None:
    for step in range(10, 1000, 10):
        figures = before if step <= 50 else {"loss": LN_K, "code_entropy": LN_K}
        try:
            one.look({**HEALTHY, **figures, "step": step})
        except Collapsed:
            return step
    return None


def test_a_warning_does_not_silence_another_choice() -> None:
    warned = watch("warn")
    assert noticed(warned, {"rankme": 1.1}, first=0, last=200) == 100
    later = watch("stop")
    later.load_state_dict(warned.state_dict())
    with pytest.raises(TrainingFailed):
        later.look({**HEALTHY, "rankme": 1.1, "step": 110})
