"""Linear SVMs on few images of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import PositiveInt
from steady_runs import Settings

from classify.benchmark import Bench, Benchmark, InAll, Result, Row
from classify.settings import Common

if TYPE_CHECKING:
    from torch import Tensor

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)


class LowshotOptions(Settings):
    """lowshot"""

    k: tuple[PositiveInt, ...] = SHOTS
    """Numbers of training images per class. Those that the data set is too small for are left out."""
    draws: PositiveInt = 5
    """Independent draws of the training images; figures are means over them."""


class OptionsInAll(Settings):
    """lowshot"""

    shots: tuple[PositiveInt, ...] = SHOTS
    """Numbers of training images per class. Those that the data set is too small for are left out."""
    draws: PositiveInt = 5
    """Independent draws of the training images; figures are means over them."""


class LowshotSettings(LowshotOptions, Common):
    pass


def run(bench: Bench, settings: LowshotSettings) -> Result:
    from eval_probes import LowShotSVMProbe

    train, test, tap = bench.train, bench.test, "feature5"
    possible, left_out = possible_k(train.y, settings.k)
    if not possible:
        raise ValueError(f"no class has enough images for k = {min(settings.k)}; take smaller --k or more images")
    probe = LowShotSVMProbe(possible, n_draws=settings.draws, seed=settings.seed).fit(train.x[tap], train.y)
    scores = probe.evaluate(test.x[tap], test.y)
    by_k = {
        str(k): {"reference": _entry(scores[f"k={k}, best on test"]), "validated": _entry(scores[f"k={k}"])}
        for k in possible
    }
    return {"tap": tap, "draws": settings.draws, "k": by_k, "left_out": left_out}


def _entry(score: dict[str, float]) -> Result:
    names = {"mean": "mean_ap", "min": "mean_ap_min", "max": "mean_ap_max", "std": "mean_ap_sd"}
    return {"cost": score["cost"]} | {name: 100 * score[metric] for name, metric in names.items()}


def possible_k(y: Tensor, k: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split `k` into those that the data set is large enough for, and the others.

    A draw takes k positives and (C - 1) k negatives of each of the C classes.

    Args:
        y: Labels (N,), or (N, C) of 1, 0 and -1.
        k: Numbers of images per class.
    """
    columns = (y[:, None] == y.unique()).long() if y.ndim == 1 else y
    positives, negatives = int((columns == 1).sum(0).min()), int((columns == 0).sum(0).min())
    possible = [n for n in k if n <= positives and (columns.shape[1] - 1) * n <= negatives]
    return possible, [n for n in k if n not in possible]


def rows(result: Result) -> list[Row]:
    return [
        (label, {f"k={k}": f"{score[choice]['mean']:.2f}" for k, score in result["k"].items()})
        for label, choice in (("published", "reference"), ("honest", "validated"))
    ]


BENCHMARK = Benchmark(
    "lowshot",
    "linear SVMs on few images of each class",
    LowshotSettings,
    run,
    "SVM and low-shot SVM (mAP, %)",
    rows,
    in_all=InAll(lambda every: {"k": every.shots, "draws": every.draws}, OptionsInAll),
    several_labels=True,
)
