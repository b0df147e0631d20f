"""Linear SVMs on frozen features by the protocol of VOC2007."""

from __future__ import annotations

from typing import Literal

from steady_runs import Settings

from classify.benchmark import Bench, Benchmark, InAll, Result, Row
from classify.protocols import Tap
from classify.settings import Common


class SvmOptions(Settings):
    """svm"""

    preset: Literal["svm_voc07"] | None = "svm_voc07"
    """Published protocol; there is one: for each class the cost that is best in three-fold cross-validation."""
    costs: Literal["voc07", "vissl"] = "voc07"
    """Costs to choose from: the usual 19, or the 11 of VISSL."""
    taps: tuple[Tap, ...] = ("feature5",)
    """Features to train on. Of several, the published figure is that of the best one on the test set."""


class SvmSettings(SvmOptions, Common):
    pass


def run(bench: Bench, settings: SvmSettings) -> Result:
    from eval_probes import VISSL_COSTS, VOC07_COSTS, SVMProbe

    train, test = bench.train, bench.test
    result: Result = {"preset": "svm_voc07", "costs": settings.costs, "taps": {}}
    for tap in settings.taps:
        probe = SVMProbe(VOC07_COSTS if settings.costs == "voc07" else VISSL_COSTS).fit(train.x[tap], train.y)
        score = probe.evaluate(test.x[tap], test.y, seed=settings.seed)["cv"]
        result["taps"][tap] = {
            "mean_ap": 100 * score["mean_ap"],
            "interval": [100 * score["mean_ap_low"], 100 * score["mean_ap_high"]],
            "ap": [100 * float(ap) for ap in probe.average_precision(test.x[tap], test.y)],
            "costs": [float(cost) for cost in probe.costs_],
            **({"top1": 100 * score["top1"]} if "top1" in score else {}),
        }
    best = max(result["taps"], key=lambda tap: result["taps"][tap]["mean_ap"])
    return result | {"best_tap": best, "mean_ap": result["taps"][best]["mean_ap"]}


def rows(result: Result) -> list[Row]:
    taps = result["taps"]
    named = "feature5" if len(taps) > 1 else next(iter(taps))  # not the best of several, which the test set chose
    honest = {"SVM": f"{taps[named]['mean_ap']:.2f}"} if named in taps else {}
    return [("published", {"SVM": f"{result['mean_ap']:.2f}"}), ("honest", honest)]


BENCHMARK = Benchmark(
    "svm",
    "linear SVMs by the protocol of VOC2007",
    SvmSettings,
    run,
    "SVM and low-shot SVM (mAP, %)",
    rows,
    in_all=InAll(),
    several_labels=True,
)
