"""Each benchmark: features in, a dictionary for results.json out. Accuracies and mAP are in percent."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from eval_probes import (
    SEMI_1PERCENT,
    SEMI_10PERCENT,
    VISSL_COSTS,
    VOC07_COSTS,
    ClusterProbe,
    FineTune,
    KNNProbe,
    LinearProbe,
    LowShotSVMProbe,
    MultiHeadLinearProbe,
    SVMProbe,
    TapFeatures,
    bootstrap_interval,
    pool_taps,
    rankme,
    subset_indices,
)
from torch import Tensor

from classify.data import Batches, Sets, shuffled
from classify.errors import BadInput
from classify.features import Extractor
from classify.protocols import PRESETS

Result = dict[str, Any]
Rows = Callable[[int], Iterable[tuple[Any, Tensor]]]


def knn(train: TapFeatures, test: TapFeatures, extractor: Extractor, k: Sequence[int], temperature: float) -> Result:
    """Cosine neighbours of average-pooled features; every k from one pass, ranks share the queries. Collective."""
    probe = KNNProbe(tuple(k), temperature=temperature).fit(train.x["avgpool"], labels(train))
    mine = probe.hits(extractor.share(test.x["avgpool"]), extractor.share(labels(test)))
    hits = {n: extractor.gather(mine[f"k={n}"].byte()).bool() for n in k}
    result: Result = {
        "temperature": temperature,
        "k": {
            str(n): {
                "top1": 100 * float(right[:, 0].double().mean()),
                "top5": 100 * float(right[:, 1].double().mean()),
                "interval": _interval(right[:, 0]),
            }
            for n, right in hits.items()
        },
    }
    return result | {"rankme": rankme(test.x["avgpool"].float())}


def linear_cached(
    train: TapFeatures, test: TapFeatures, preset: str, lr: Sequence[float], epochs: int | None, seed: int
) -> Result:
    """On the features of the central crop, no augmentation: quick, and not the published protocol."""
    probe = LinearProbe(_protocol(preset, epochs), lr=tuple(lr) or None, holdout=0.1, seed=seed)
    probe.fit(train.x["avgpool"], labels(train), test=(test.x["avgpool"], labels(test)))
    return {"preset": preset, "images": "central crops, cached"} | _linear_report(probe, test)


def linear_fresh(
    sets: Sets, extractor: Extractor, test: TapFeatures, preset: str, lr: Sequence[float], epochs: int | None, seed: int
) -> Result:
    """The published protocol: features of new random crops in every epoch."""
    protocol = _protocol(preset, epochs)
    probe = LinearProbe(protocol, lr=tuple(lr) or None, classes=sets.train_labels.unique(), seed=seed)
    rows = _fresh(sets, extractor, ("avgpool",), preset, protocol.batch, protocol.epochs, seed)
    probe.fit_batches(lambda epoch: ((x["avgpool"], y) for x, y in rows(epoch)), test=(test.x["avgpool"], labels(test)))
    return {"preset": preset, "images": "random crops, new in each epoch"} | _linear_report(probe, test)


def mhead_cached(train: TapFeatures, test: TapFeatures, preset: str, epochs: int | None, seed: int) -> Result:
    probe = MultiHeadLinearProbe(_protocol(preset, epochs), seed=seed)
    stages = _stages(train)
    probe.fit(stages, labels(train), test=(_stages(test), labels(test)))
    return {"preset": preset, "images": "central crops, cached"} | _mhead_report(probe, test)


def mhead_fresh(
    sets: Sets, extractor: Extractor, test: TapFeatures, preset: str, epochs: int | None, seed: int
) -> Result:
    protocol = _protocol(preset, epochs)
    probe = MultiHeadLinearProbe(protocol, classes=sets.train_labels.unique(), seed=seed)
    taps = tuple(tap for tap in test.x if tap != "avgpool")
    rows = _fresh(sets, extractor, taps, preset, protocol.batch, protocol.epochs, seed)
    probe.fit_batches(rows, test=(_stages(test), labels(test)))
    return {"preset": preset, "images": "random crops, new in each epoch"} | _mhead_report(probe, test)


def svm(train: TapFeatures, test: TapFeatures, taps: Sequence[str], costs: str, seed: int) -> Result:
    """VOC07's protocol for each tap; the published figure is that of the tap which is best on the test set."""
    result: Result = {"preset": "svm_voc07", "costs": costs, "taps": {}}
    for tap in taps:
        probe = SVMProbe(VOC07_COSTS if costs == "voc07" else VISSL_COSTS).fit(train.x[tap], labels(train))
        score = probe.evaluate(test.x[tap], labels(test), seed=seed)["cv"]
        result["taps"][tap] = {
            "mean_ap": 100 * score["mean_ap"],
            "interval": [100 * score["mean_ap_low"], 100 * score["mean_ap_high"]],
            "ap": [100 * float(ap) for ap in probe.average_precision(test.x[tap], labels(test))],
            "costs": [float(cost) for cost in probe.costs_],
            **({"top1": 100 * score["top1"]} if "top1" in score else {}),
        }
    best = max(result["taps"], key=lambda tap: result["taps"][tap]["mean_ap"])
    return result | {"best_tap": best, "mean_ap": result["taps"][best]["mean_ap"]}


def lowshot(train: TapFeatures, test: TapFeatures, tap: str, k: Sequence[int], draws: int, seed: int) -> Result:
    possible, left_out = _possible_k(labels(train), k)
    if not possible:
        raise BadInput(f"lowshot: no class has enough images for k = {min(k)}; take smaller --k or more images")
    probe = LowShotSVMProbe(possible, n_draws=draws, seed=seed).fit(train.x[tap], labels(train))
    scores = probe.evaluate(test.x[tap], labels(test))
    names = {"mean": "mean_ap", "min": "mean_ap_min", "max": "mean_ap_max", "std": "mean_ap_sd"}
    rows = {
        str(n): {
            choice: {"cost": score["cost"]} | {name: 100 * score[metric] for name, metric in names.items()}
            for choice, score in (
                ("reference", scores[f"k={n}, best on test"]),
                ("validated", scores[f"k={n}"]),
            )
        }
        for n in possible
    }
    return {"tap": tap, "draws": draws, "k": rows, "left_out": left_out}


def cluster(test: TapFeatures, k: int | None, seed: int) -> Result:
    """k-means of the test images, scored against their labels."""
    y = labels(test)
    n = k or len(y.unique())
    probe = ClusterProbe(n, seed=seed).fit(test.x["avgpool"])
    return {"k": n, **_percent(probe.evaluate(test.x["avgpool"], y)[f"k={n}"])}


def semi(
    sets: Sets,
    extractor: Extractor,
    fraction: float,
    chosen: Tensor | None,
    *,
    lr: Sequence[float],
    head_multiplier: Sequence[float],
    epochs: int | None,
    batch: int | None,
    seeds: Sequence[int],
) -> Result:
    """Fine-tuning with few labels. chosen: rows of the training set, or a stratified subset of `fraction` by seed."""
    protocol = SEMI_1PERCENT if fraction <= 0.01 else SEMI_10PERCENT
    protocol = replace(
        protocol,
        lr=tuple(lr) or protocol.lr,
        head_multiplier=tuple(head_multiplier) or protocol.head_multiplier,
        epochs=epochs or protocol.epochs,
        batch=batch or protocol.batch,
    )
    y = sets.train_labels
    rows = subset_indices(y, fraction, seeds[0]) if chosen is None else chosen
    held = subset_indices(y[rows], 0.2, seeds[0], at_least=0) if len(rows) >= 10 * len(y.unique()) else None
    kept = rows if held is None else rows[~torch.isin(torch.arange(len(rows)), held)]
    kept_set = Batches(sets.train, sets, kept, augmentation="crop", seed=seeds[0], workers=extractor.workers)

    def fresh(epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        extractor.progress(f"fine-tuning, {len(kept):,} images", (epoch + 1) / protocol.epochs)
        order = shuffled(len(kept), seed, epoch)
        if len(kept) > protocol.batch and len(kept) % protocol.batch == 1:
            order = order[:-1]  # one image alone has no batch statistics; another one is left out in each epoch
        return kept_set.epoch(epoch, min(protocol.batch, len(kept)), order)

    def network() -> torch.nn.Module:
        return copy.deepcopy(extractor.backbone).train().requires_grad_(True)

    def of(images: Any, rows: Tensor) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
        return lambda: Batches(images, sets, rows, workers=extractor.workers).epoch(0, extractor.batch)

    probe = FineTune(
        network,
        dim=extractor.backbone.num_features,
        classes=y.unique(),
        protocol=protocol,
        seeds=seeds,
        precision=extractor.precision,
    )
    holdout = None if held is None else of(sets.train, rows[held])
    probe.fit(fresh, of(sets.test, torch.arange(len(sets.test))), holdout)
    cells = [_percent(vars(cell), ("top1", "top5", "holdout_top1")) for cell in probe.cells_]
    best = {"best_on_val": _percent(probe.best_on_val_, ("top1", "top5", "top1_sd"))}
    if probe.chosen_ is not None:
        best["chosen"] = _percent(probe.chosen_, ("top1", "top5", "top1_sd"))
    return {"fraction": fraction, "n_images": len(rows), "epochs": protocol.epochs, **best, "cells": cells}


def labels(features: TapFeatures) -> Tensor:
    assert features.labels is not None  # checked in open_sets
    return features.labels


def _fresh(
    sets: Sets, extractor: Extractor, taps: Sequence[str], preset: str, batch: int, epochs: int, seed: int
) -> Callable[[int], Iterator[tuple[dict[str, Tensor], Tensor]]]:
    n = len(sets.train)
    loader = Batches(
        sets.train,
        sets,
        torch.arange(n),
        augmentation=PRESETS[preset].augmentation,
        seed=seed,
        workers=extractor.workers,
    )
    device = extractor.device

    def rows(epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for crops, y in loader.epoch(epoch, batch, shuffled(n, seed, epoch)):
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=extractor.precision == "bf16"),
            ):
                maps = extractor.backbone.stages(crops.to(device, non_blocking=True))
                x = {tap: z.clone() for tap, z in pool_taps(maps, taps, sets.pool).items()}
            yield {tap: z.clone() for tap, z in x.items()}, y  # cloned outside inference mode: heads train on them
        extractor.progress(f"{PRESETS[preset].command} on fresh crops", (epoch + 1) / epochs)

    return rows


def _protocol(preset: str, epochs: int | None) -> Any:
    protocol = PRESETS[preset].protocol
    if protocol is None or epochs is None:
        return protocol
    scale = epochs / protocol.epochs
    milestones = protocol.milestones and tuple(max(1, round(m * scale)) for m in protocol.milestones)
    return replace(protocol, epochs=epochs, milestones=milestones)


def _linear_report(probe: LinearProbe, test: TapFeatures) -> Result:
    result: Result = {"epochs": probe.protocol.epochs, "last": {}, "best_on_test": {}}
    for name, rows in (("last", probe.last_), ("best_on_test", probe.best_on_test_)):
        by_lr = zip(probe.lr_, rows.values(), strict=True)
        result[name] = {f"{lr:g}": _percent(row, ("top1", "top5")) for lr, row in by_lr}
    if probe.chosen_ is not None:
        result["chosen"] = _percent(probe.chosen_, ("holdout_top1", "top1", "top5"))
    # beside the figure of the classifier that predicts: the chosen one, or the first rate's at the last epoch
    figure = result["chosen"] if "chosen" in result else result["last"][f"{probe.lr_[0]:g}"]
    figure["interval"] = _interval(probe.predict(test.x["avgpool"]) == labels(test))
    return result


def _mhead_report(probe: MultiHeadLinearProbe, test: TapFeatures) -> Result:
    return {
        "epochs": probe.protocol.epochs,
        "taps": {
            tap: {**_percent(row), "interval": _interval(probe.predict(test.x, tap=tap) == labels(test))}
            for tap, row in probe.last_.items()
        },
        "best_on_test": {tap: _percent(row, ("top1", "top5")) for tap, row in probe.best_on_test_.items()},
    }


def _stages(features: TapFeatures) -> dict[str, Tensor]:
    return {tap: x for tap, x in features.x.items() if tap != "avgpool"}


def _possible_k(y: Tensor, k: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which k the smallest class allows: k positives and (C - 1) k negatives."""
    columns = (y[:, None] == y.unique()).long() if y.ndim == 1 else y
    positives, negatives = int((columns == 1).sum(0).min()), int((columns == 0).sum(0).min())
    fits = [n for n in k if n <= positives and (columns.shape[1] - 1) * n <= negatives]
    return fits, [n for n in k if n not in fits]


def _interval(right: Tensor) -> list[float]:
    return [100 * edge for edge in bootstrap_interval(right)]


def _percent(row: dict[str, Any], names: Sequence[str] | None = None) -> dict[str, Any]:
    return {k: 100 * v if (names is None or k in names) and v is not None else v for k, v in row.items()}
