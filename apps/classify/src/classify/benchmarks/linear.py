"""A linear classifier on average-pooled features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat, PositiveInt
from steady_runs import Settings

from classify.benchmark import Bench, Benchmark, InAll, Result, Row
from classify.figures import interval, percent
from classify.protocols import LINEAR, linear_protocol
from classify.settings import Common

if TYPE_CHECKING:
    from eval_probes import LinearProbe

    from classify.features import Labelled

LR_IN_ALL = (0.01, 0.1, 1.0, 10.0, 30.0)  # wide, as the scale of features differs between backbones


class LinearOptions(Settings):
    """linear"""

    preset: Literal[
        "resnet50_linear-8xb32-steplr-100e_in1k",
        "resnet50_linear-8xb32-coslr-100e_in1k",
        "resnet50_linear-8xb512-coslr-90e_in1k",
    ] = "resnet50_linear-8xb32-steplr-100e_in1k"
    """Published protocol; `classify --help` says whose."""
    features: Literal["fresh", "cached"] = "fresh"
    """fresh: extract features of new random crops in each epoch, as published. cached: train on the features of the
    central crop, which takes seconds."""
    epochs: PositiveInt | None = None
    """Epochs instead of the protocol's. The steps of the learning rate move in proportion."""
    lr: tuple[PositiveFloat, ...] = ()
    """Learning rates instead of the protocol's one; they train side by side."""


class LinearSettings(LinearOptions, Common):
    pass


def run(bench: Bench, settings: LinearSettings) -> Result:
    from eval_probes import LinearProbe

    preset, train = LINEAR[settings.preset], bench.train
    protocol = linear_protocol(preset, settings.epochs)
    test, lr = (bench.test.x["avgpool"], bench.test.y), settings.lr or None
    with bench.unfinished.going_on() as unfinished:
        if settings.features == "cached":
            images = "central crops, cached"
            probe = LinearProbe(protocol, lr=lr, holdout=0.1, seed=settings.seed)
            probe.fit(
                train.x["avgpool"], train.y, test=test, after_epoch=unfinished.after_epoch, resume=unfinished.state
            )
        else:
            images = "random crops, new in each epoch"
            classes = bench.sets.train_labels.unique()
            probe = LinearProbe(protocol, lr=lr, classes=classes, seed=settings.seed, device=bench.extractor.device)
            fresh = bench.extractor.fresh(
                bench.sets, ("avgpool",), preset, protocol, settings.seed, "linear", unfinished.stop_if_asked
            )
            probe.fit_batches(
                lambda epoch: ((x["avgpool"], y) for x, y in fresh(epoch)),
                test=test,
                after_epoch=unfinished.after_epoch,
                resume=unfinished.state,
            )
        return {"preset": settings.preset, "images": images} | _figures(probe, bench.test)


def _figures(probe: LinearProbe, test: Labelled) -> Result:
    result: Result = {"epochs": probe.protocol.epochs, "last": {}, "best_on_test": {}}
    for name, found in (("last", probe.last_), ("best_on_test", probe.best_on_test_)):
        by_lr = zip(probe.lr_, found.values(), strict=True)
        result[name] = {f"{lr:g}": percent(row, ("top1", "top5")) for lr, row in by_lr}
    if probe.chosen_ is not None:
        result["chosen"] = percent(probe.chosen_, ("holdout_top1", "top1", "top5"))
    # The interval belongs to the classifier that `predict` uses: the chosen one, or else that of the first rate.
    predicting = result["chosen"] if "chosen" in result else result["last"][f"{probe.lr_[0]:g}"]
    predicting["interval"] = interval(probe.predict(test.x["avgpool"]) == test.y)
    return result


def rows(result: Result) -> list[Row]:
    best = {name: max(result[name].values(), key=lambda row: row["top1"]) for name in ("best_on_test", "last")}
    made: list[Row] = [("published", {"AvgPool": f"{best['best_on_test']['top1']:.2f}"})]
    if "chosen" in result:
        made.append(("honest", {"AvgPool": f"{result['chosen']['top1']:.2f}"}))
    elif len(result["last"]) == 1:  # of several rates, the best would be chosen on the test set
        made.append(("honest", {"AvgPool": f"{best['last']['top1']:.2f}"}))
    return made


BENCHMARK = Benchmark(
    "linear",
    "a linear classifier on average-pooled features",
    LinearSettings,
    run,
    "Linear classification (top-1, %)",
    rows,
    in_all=InAll(lambda _: {"preset": "resnet50_linear-8xb32-coslr-100e_in1k", "features": "cached", "lr": LR_IN_ALL}),
)
