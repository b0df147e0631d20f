"""Linear classifiers on Feature1 to Feature5, each behind a batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt
from steady_runs import Settings

from classify.benchmark import Bench, Benchmark, InAll, Result, Row
from classify.figures import interval, percent
from classify.protocols import MHEAD, linear_protocol
from classify.settings import Common

if TYPE_CHECKING:
    from torch import Tensor

    from classify.features import Labelled


class MheadOptions(Settings):
    """mhead"""

    preset: Literal[
        "resnet50_mhead_linear-8xb32-steplr-90e_in1k",
        "resnet50_mhead_8xb32-steplr-28e_places205",
        "resnet50_mhead_8xb32-steplr-84e_inat18",
    ] = "resnet50_mhead_linear-8xb32-steplr-90e_in1k"
    """Published protocol; `classify --help` says whose."""
    features: Literal["fresh", "cached"] = "fresh"
    """fresh: extract features of new random crops in each epoch, as published. cached: train on the features of the
    central crop, which takes seconds."""
    epochs: PositiveInt | None = None
    """Epochs instead of the protocol's. The steps of the learning rate move in proportion."""


class MheadSettings(MheadOptions, Common):
    pass


def run(bench: Bench, settings: MheadSettings) -> Result:
    from eval_probes import MultiHeadLinearProbe

    preset = MHEAD[settings.preset]
    protocol = linear_protocol(preset, settings.epochs)
    train, test = _stages(bench.train), _stages(bench.test)
    with bench.unfinished.going_on() as unfinished:
        if settings.features == "cached":
            images = "central crops, cached"
            probe = MultiHeadLinearProbe(protocol, seed=settings.seed)
            probe.fit(
                train,
                bench.train.y,
                test=(test, bench.test.y),
                after_epoch=unfinished.after_epoch,
                resume=unfinished.state,
            )
        else:
            images = "random crops, new in each epoch"
            classes = bench.sets.train_labels.unique()
            probe = MultiHeadLinearProbe(protocol, classes=classes, seed=settings.seed, device=bench.extractor.device)
            fresh = bench.extractor.fresh(
                bench.sets, tuple(test), preset, protocol, settings.seed, "mhead", unfinished.stop_if_asked
            )
            probe.fit_batches(
                fresh,
                test=(test, bench.test.y),
                after_epoch=unfinished.after_epoch,
                resume=unfinished.state,
            )
    return {
        "preset": settings.preset,
        "images": images,
        "epochs": protocol.epochs,
        "taps": {
            tap: {**percent(row), "interval": interval(probe.predict(test, tap=tap) == bench.test.y)}
            for tap, row in probe.last_.items()
        },
        "best_on_test": {tap: percent(row, ("top1", "top5")) for tap, row in probe.best_on_test_.items()},
    }


def _stages(features: Labelled) -> dict[str, Tensor]:
    return {tap: x for tap, x in features.x.items() if tap != "avgpool"}


def rows(result: Result) -> list[Row]:
    return [("published", {tap.capitalize(): f"{row['top1']:.2f}" for tap, row in result["taps"].items()})]


BENCHMARK = Benchmark(
    "mhead",
    "linear classifiers on Feature1 to Feature5",
    MheadSettings,
    run,
    "Linear classification (top-1, %)",
    rows,
    in_all=InAll(lambda _: {"features": "cached"}),
)
