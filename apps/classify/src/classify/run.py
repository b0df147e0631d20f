"""A benchmark from top to bottom: machine, weights, data, features, probes, results."""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from eval_probes import TapFeatures, read_subset_list
from torch import Tensor
from steady_runs import Progress

from classify import probes, results
from classify.cli import dump
from classify.data import Sets, open_sets
from classify.errors import BadInput
from classify.features import Extractor
from classify.protocols import DEFAULT_PRESET, TAPS
from classify.report import render
from classify.weights import Weights, read_weights

LINEAR_CACHED_LR = (0.01, 0.1, 1.0, 10.0, 30.0)  # of `all`: features of every scale find theirs


def run(options: argparse.Namespace, rank: int, world: int, began: float) -> None:
    """Do what `options` (see `cli.parser`) say. Raises BadInput."""
    # ---- machine ----
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: no GPU that torch can use; take --device auto, or install a torch with CUDA")
    device = torch.device("cpu")
    if options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available()):
        device = torch.device("cuda", rank % torch.cuda.device_count())
    progress = Progress(quiet=options.quiet, main=rank == 0)

    # ---- weights, data ----
    weights = read_weights(options.weights, random_init=options.random_init, seed=options.seed)
    data = options.data or weights.data or "shapes"
    sets = open_sets(data, options.test, options.size, options.resize, download=options.download)
    wanted = _wanted(options.command, sets)
    progress.say(f"weights    {weights.what}\n           {weights.path}")
    progress.say(f"data       {data}: {len(sets.train):,} to train, {len(sets.test):,} to test")

    with (
        _process_group(world, device),
        results.new_folder(options.out, options.command, make=rank == 0) as folder,
        progress,
    ):
        # ---- features ----
        extractor = Extractor(
            weights.backbone.to(device),
            weights.sha256,
            device,
            options.precision,
            options.batch,
            options.workers,
            Path(options.cache) if options.cache else None,
            progress.doing,
            rank,
            world,
        )
        train, test = None, None
        if wanted != ["semi"]:
            train, test = extractor.train_and_test(sets, TAPS, squash=sets.multi_label)
        # ---- probes ----
        found: dict[str, Any] = {}
        for name in wanted if rank == 0 else [name for name in wanted if name == "knn"]:
            progress.doing(name, 0.0)
            found[name] = _probe(name, options, sets, extractor, train, test)
        if rank > 0:
            return

        # ---- results ----
        record = _record(options, weights, data, sets, found, time.monotonic() - began)
        results.write(folder / "results.json", dump(record))
        results.write(folder / "report.html", render(record, sets, train, test))
    for table in results.tables([(folder.name, record)]):
        progress.console.print(table)
    if sets.size != 224:
        said = f"taps are pooled adaptively, as crops have {sets.size} px and the published pools are for 224"
        progress.say(said, even_quiet=True)
    progress.say(f"results    {folder / 'results.json'}\nreport     {folder / 'report.html'}", even_quiet=True)
    progress.say(f"took       {time.monotonic() - began:.0f} s", even_quiet=True)


@contextmanager
def _process_group(world: int, device: torch.device) -> Iterator[None]:
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        if world > 1:
            dist.destroy_process_group()


def _wanted(command: str, sets: Sets) -> list[str]:
    """The probes of a command; for `all`, those that the labels allow."""
    several = ["svm", "lowshot"] if sets.multi_label else ["knn", "linear", "mhead", "svm", "lowshot", "cluster"]
    if command == "all":
        return several
    if command not in (*several, "semi") or (command == "semi" and sets.multi_label):
        raise BadInput(f"{command} needs one class an image, and these have several; there is: {', '.join(several)}")
    return [command]


def _probe(
    name: str,
    options: argparse.Namespace,
    sets: Sets,
    extractor: Extractor,
    train: TapFeatures | None,
    test: TapFeatures | None,
) -> dict[str, Any]:
    seed, everything = options.seed, options.command == "all"
    try:
        if name == "semi":
            return probes.semi(
                sets,
                extractor,
                options.fraction,
                _listed(sets, options.list),
                lr=options.lr,
                head_multiplier=options.head_multiplier,
                epochs=options.epochs,
                batch=options.train_batch,
                seeds=options.seeds,
            )
        assert train is not None
        assert test is not None
        if name == "knn":
            return probes.knn(train, test, extractor, options.k, options.temperature)
        if name == "linear":
            if everything:
                preset = "resnet50_linear-8xb32-coslr-100e_in1k"
                return probes.linear_cached(train, test, preset, LINEAR_CACHED_LR, None, seed)
            if options.features == "cached":
                return probes.linear_cached(train, test, options.preset, options.lr, options.epochs, seed)
            return probes.linear_fresh(sets, extractor, test, options.preset, options.lr, options.epochs, seed)
        if name == "mhead":
            if everything:
                return probes.mhead_cached(train, test, DEFAULT_PRESET["mhead"], None, seed)
            if options.features == "cached":
                return probes.mhead_cached(train, test, options.preset, options.epochs, seed)
            return probes.mhead_fresh(sets, extractor, test, options.preset, options.epochs, seed)
        if name == "svm":
            taps = ["feature5"] if everything else options.taps
            return probes.svm(train, test, taps, "voc07" if everything else options.costs, seed)
        if name == "lowshot":
            return probes.lowshot(train, test, "feature5", options.shots, options.draws, seed)
        return probes.cluster(test, None if everything else options.clusters, seed)
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from None


def _listed(sets: Sets, path: str | None) -> Tensor | None:
    """Rows of the training set that a subset list names, by the ends of their paths."""
    if path is None:
        return None
    try:
        files, _ = read_subset_list(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"--list {error}") from None
    rows = {"/".join(sets.train.name(i).split("/")[-2:]): i for i in range(len(sets.train))}
    absent = [file for file in files if "/".join(file.split("/")[-2:]) not in rows]
    if absent:
        raise BadInput(
            f"--list {path}: {len(absent)} of {len(files)} files are not among the images, first {absent[0]}"
        )
    return torch.tensor([rows["/".join(file.split("/")[-2:])] for file in files]).unique()


def _record(
    options: argparse.Namespace, weights: Weights, data: str, sets: Sets, found: dict[str, Any], wall_s: float
) -> results.Results:
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "torchvision", "eval-probes", "sobel-resnet")
    }
    return {
        "command": options.command,
        "weights": {"path": weights.path, "sha256": weights.sha256, "what": weights.what},
        "data": data,
        "test": options.test or data,
        "n_train": len(sets.train),
        "n_test": len(sets.test),
        "size": sets.size,
        "resize": sets.resize,
        "squash": sets.multi_label,
        "precision": options.precision,
        "seed": options.seed,
        "versions": versions,
        "wall_s": round(wall_s, 1),
        "results": found,
    }
