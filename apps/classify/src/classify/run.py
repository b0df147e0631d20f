"""A run from top to bottom: machine, weights, data, features, benchmarks, results."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from steady_runs import BadInput, FolderLock, Interrupted, Progress, RunFolder, StopSignal, ranks
from steady_runs.checkpoint import Checkpoints
from steady_runs.device import use_cuda

from classify.benchmark import Bench, Benchmark, Result
from classify.benchmarks import BENCHMARKS, benchmarks_of
from classify.data import Sets, open_sets
from classify.features import Extractor, Labelled
from classify.protocols import TAPS
from classify.report import render
from classify.results import Results, tables
from classify.settings import Common
from classify.unfinished import State, Unfinished, stops_later
from classify.weights import Weights, read_weights


@dataclass(frozen=True)
class Resumed:
    """A run that was begun earlier.

    Attributes:
        folder: Of the run.
        inputs: Hashes of the weights and images that it was begun with.
    """

    folder: RunFolder
    inputs: dict[str, str]


def run(command: str, settings: Common, resumed: Resumed | None = None) -> None:
    """Run the benchmarks of a command in a new run folder, or those that are left in the folder of an earlier run.

    Raises:
        BadInput: For settings, weights or images that cannot be used.
        Interrupted: If a signal stops the run; the message says how to go on.
    """
    began = time.monotonic()
    rank, world = ranks()
    with StopSignal() as stop, ExitStack() as stack:
        # ---- machine ----
        on_gpu = use_cuda(settings.device)
        device = torch.device("cuda", rank % torch.cuda.device_count()) if on_gpu else torch.device("cpu")
        progress = Progress(quiet=settings.quiet, main=rank == 0)

        # ---- weights, data ----
        weights = read_weights(settings.weights, random_init=settings.random_init, seed=settings.seed)
        data = settings.data or weights.data or "shapes"
        settings = settings.model_copy(update={"weights": weights.path, "data": data})
        sets = open_sets(settings, data)
        chosen = _that_fit(command, settings, sets)
        inputs = {"weights": weights.sha256, "training images": sets.train_key, "test images": sets.test_key}
        if resumed is not None:
            _check_same(inputs, resumed)
        progress.say(f"weights    {weights.what}\n           {weights.path}")
        first, *remarks = sets.header
        progress.say(f"data       {data}: {first}")
        for remark in remarks:
            progress.say(f"           {remark}")

        # ---- folder ----
        stack.enter_context(_process_group(world, device))
        folder = stack.enter_context(_run_folder(command, settings, inputs, resumed, rank, progress))
        finished = [line for line in folder.read_metrics() if "benchmark" in line] if resumed else []
        found: dict[str, Result] = {line["benchmark"]: line["result"] for line in finished}
        began -= finished[-1]["wall_s"] if finished else 0.0
        checkpoints = stack.enter_context(Checkpoints(folder.path)) if rank == 0 else None
        state = _load(checkpoints, progress) if checkpoints is not None and resumed else None
        stack.enter_context(progress)

        # ---- features ----
        extractor = Extractor(
            weights.backbone.to(device),
            weights.sha256,
            device,
            settings.precision,
            settings.batch,
            settings.workers,
            Path(settings.cache) if settings.cache else None,
            progress.doing,
            rank,
            world,
        )
        features: tuple[Labelled, Labelled] | None = None
        if any(benchmark.uses_features for benchmark, _ in chosen):
            with stops_later(stop):
                features = extractor.train_and_test(
                    sets, TAPS, squash=sets.multi_label, stop_if_asked=lambda: _stop_if_asked(stop)
                )

        # ---- benchmarks ----
        for benchmark, own in chosen:
            if benchmark.name in found or (rank > 0 and not benchmark.on_every_rank):
                continue
            progress.doing(benchmark.name, 0.0)
            bench = Bench(sets, extractor, features, Unfinished(benchmark.name, stop, checkpoints, state))
            found[benchmark.name] = _measured(benchmark, bench, own)
            if rank == 0:
                with stops_later(stop):
                    wall_s = round(time.monotonic() - began, 1)
                    line = {"benchmark": benchmark.name, "wall_s": wall_s, "result": found[benchmark.name]}
                    folder.append_metrics(line)
        if checkpoints is None:
            return

        # ---- results ----
        stop.defer()  # until the end: from here on it takes seconds
        wall_s = round(time.monotonic() - began, 1)
        results = _results(command, settings, weights, sets, found, wall_s)
        folder.write_report(render(results, sets, features))
        folder.append_metrics({"final": True, "wall_s": wall_s})
        folder.write_results(results)  # last, as a run with results is finished
        checkpoints.wait()
        for path in (checkpoints.last, checkpoints.previous):
            path.unlink(missing_ok=True)
    for table in tables([(folder.path.name, results)]):
        progress.console.print(table)
    if sets.size != 224:
        progress.say(
            f"taps are pooled adaptively, as crops have {sets.size} px and the published pools are for 224",
            even_quiet=True,
        )
    progress.say(f"results    {folder.results}\nreport     {folder.report}", even_quiet=True)
    progress.say(f"took       {wall_s:.0f} s", even_quiet=True)


@contextmanager
def _process_group(world: int, device: torch.device) -> Iterator[None]:
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        if world > 1:
            dist.destroy_process_group()


@contextmanager
def _run_folder(
    command: str, settings: Common, inputs: dict[str, str], resumed: Resumed | None, rank: int, progress: Progress
) -> Iterator[RunFolder]:
    """The folder of the run, which the first rank creates and locks.

    A run that fails before a benchmark is finished leaves no folder. One that is interrupted does, as it can go on.
    """
    if rank > 0:
        folder = resumed.folder if resumed else RunFolder.nowhere()
    else:
        folder = resumed.folder if resumed else RunFolder.create(settings.out, f"classify-{command}")
    try:
        with FolderLock(folder.path) if rank == 0 else nullcontext() as lock:
            if lock is not None and lock.warning is not None:
                progress.say(lock.warning)
            if rank == 0 and resumed is None:
                folder.write_settings({"command": command, "inputs": inputs, **settings.model_dump()})
            elif rank == 0:
                folder.keep_metrics(lambda line: "benchmark" in line)
            yield folder
    except KeyboardInterrupt:
        if rank > 0:  # the first rank says how to go on
            raise Interrupted("stopped") from None
        raise Interrupted(f"stopped; go on with: uv run apps/classify resume {folder.path}") from None
    except BaseException:
        if rank == 0 and resumed is None:
            folder.remove_if_unused()
        raise


def _check_same(inputs: dict[str, str], resumed: Resumed) -> None:
    """Refuse to mix figures of different weights or images in one run."""
    changed = [what for what, key in inputs.items() if resumed.inputs.get(what) != key]
    if changed:
        raise BadInput(f"{resumed.folder.path}: the {' and '.join(changed)} changed since the run began; start it anew")


def _load(checkpoints: Checkpoints, progress: Progress) -> State | None:
    state, warning = checkpoints.load()
    if warning is not None:
        progress.say(warning, even_quiet=True)
    return state


def _stop_if_asked(stop: StopSignal) -> None:
    if stop.asked:
        raise Interrupted


def _that_fit(command: str, settings: Common, sets: Sets) -> list[tuple[Benchmark, Common]]:
    """The benchmarks of a command that can measure images with labels of this kind."""
    chosen = benchmarks_of(command, settings)
    if not sets.multi_label:
        return chosen
    fitting = [(benchmark, own) for benchmark, own in chosen if benchmark.several_labels]
    if not fitting:
        others = ", ".join(name for name, benchmark in BENCHMARKS.items() if benchmark.several_labels)
        raise BadInput(
            f"{command} needs images of one class each, and these have several labels; take one of: {others}"
        )
    return fitting


def _measured(benchmark: Benchmark, bench: Bench, settings: Common) -> Result:
    try:
        return benchmark.run(bench, settings)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{benchmark.name}: {error}") from None


def _results(
    command: str, settings: Common, weights: Weights, sets: Sets, found: dict[str, Result], wall_s: float
) -> Results:
    """Content of results.json: all that led to the figures, and the figures."""
    packages = ("torch", "torchvision", "eval-probes", "sobel-resnet")
    return {
        "command": command,
        "weights": {"path": weights.path, "sha256": weights.sha256, "what": weights.what},
        "data": settings.data,
        "test": settings.test or settings.data,
        "n_train": len(sets.train),
        "n_test": len(sets.test),
        "understood": list(sets.header),
        "size": sets.size,
        "resize": sets.resize,
        "squash": sets.multi_label,
        "precision": settings.precision,
        "seed": settings.seed,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "wall_s": wall_s,
        "results": found,
    }
