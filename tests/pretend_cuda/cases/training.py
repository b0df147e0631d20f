"""Whole runs of each method: what a user types, on a GPU beside the same on the CPU, and how often a step waits.

The images are files. One run keeps them on the device (resident), in float32, is stopped and resumed; one decodes them
as it goes, in bfloat16. A step is what happens between two calls of `torch.optim.Optimizer.step`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from indexed_images import draw_shapes, open_images
from PIL import Image
from pretend_cuda.device import Device, pretended
from pretend_cuda.log import Log
from pretrain import sources
from pretrain.cli import main
from pretrain.data import train_recipe
from pretrain.loader import Loader
from pretrain.settings import SwavSettings
from pretrain.sources import Source
from torch.optim.optimizer import register_optimizer_step_post_hook

N, BATCH, EPOCHS = 96, 24, 2
STEPS = EPOCHS * N // BATCH
LOG_EVERY, CHECKPOINT_EVERY, STOP_AFTER = 3, 5, 6
COMMON = [
    *("--arch", "resnet18", "--stem", "cifar", "--width", "0.0625", "--lr", "0.05", "--k", "12"),
    *("--batch", str(BATCH), "--epochs", str(EPOCHS), "--log-every", str(LOG_EVERY), "--quiet"),
    *("--checkpoint-every", str(CHECKPOINT_EVERY), "--knn-every", "1", "--knn-images", "64"),
]
ONE_CROP = ("--crops", "1x16@0.3-1")
CROPS = ("--crops", "2x16@0.3-1", "2x12@0.1-0.4", "--hidden", "32", "--dim", "16", "--blur", "0.5", "--solarise", "0.2")
METHODS: dict[str, list[str]] = {
    "deepcluster": [*ONE_CROP, "--pca-dim", "8", "--sobel", "--micro-batch", "12"],
    # few clusters, none of which becomes small: to split one is no part of a step in steady state
    "odc": [*ONE_CROP, "--neck-hidden", "32", "--neck-dim", "16", "--k", "4", "--min-cluster", "1"],
    "deepcluster_v2": [*CROPS],
    "swav": [
        *(*CROPS, "--queue", "48", "--queue-from-epoch", "0", "--epsilon-of-spread", "0.3", "--optimizer", "larc"),
    ],
}
# times that the host may wait for the device in a step: odc's next operations depend on which clusters became small
WAITS = {"deepcluster": 0, "odc": 1, "deepcluster_v2": 0, "swav": 0}
BFLOAT16_WITHIN = {"deepcluster": 0.02, "odc": 0.02, "deepcluster_v2": 0.05, "swav": 0.02}  # v2: other clusters, too
WAITS_TO_DECODE, WAITS_TO_LOG, WAITS_TO_SAVE = 0, 1, 3  # DeepCluster-v2 checks its bank before it is saved
# launches of a step in float32, of the resident set; deepcluster in micro-batches. A few more are no fault; an
# optimiser that goes tensor by tensor is one, and so is a plan that crosses tensor by tensor
LAUNCHES = {"deepcluster": 620, "odc": 300, "deepcluster_v2": 550, "swav": 620}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of 96 and 24 images of 20 x 24 pixels, with classes."""
    folder = tmp_path_factory.mktemp("images")
    for split, n in (("train", N), ("val", 24)):
        drawn = draw_shapes(seed=0, split=split, indices=range(n), size=24)
        for i, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
            file = folder / split / f"class{label}" / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[:, :20].permute(1, 2, 0).numpy()).save(file)
    return folder / "train", folder / "val"


def once(make: Callable[[Any], Any]) -> property:
    """A property that is made once, and raises what it raised then whenever it is asked for again."""

    def get(self: Any) -> Any:
        name = make.__name__
        if name not in self.made:
            try:
                self.made[name] = make(self), None
            except Exception as error:
                self.made[name] = None, error
        value, error = self.made[name]
        if error is not None:
            raise error
        return value

    return property(get)


@dataclass
class Ran:
    lines: list[dict[str, Any]]  # of metrics.jsonl
    steps: list[Log]


class Runs:
    """Each made when it is first asked for, as what fails in one says nothing of the others."""

    def __init__(self, method: str, images: tuple[Path, Path], out: Path) -> None:
        train, val = images
        self.made: dict[str, Any] = {}
        self.out, data = out, ("--data", f"folder:{train}", "--val", f"folder:{val}")
        recipe = ("--recipe", f"{method}_photos")  # without it, the device would choose
        self.command = [*recipe, *data, *COMMON, *METHODS[method]]

    @once
    def on_cpu(self) -> list[dict[str, Any]]:
        return self._run("cpu", "--device", "cpu", "--precision", "32", "--workers", "0", "--no-report")

    @once
    def resident(self) -> Ran:
        """float32, interrupted by --max-steps; with the report."""
        with pretended() as cuda:
            with each_step(cuda) as steps:
                options = ("--device", "cuda", "--precision", "32", "--resident", "on", "--workers", "0")
                self._run("resident", *options, "--max-steps", str(STOP_AFTER))
            out = self.out / "resident"
            assert main(["resume", str(out), "--max-steps", str(STEPS), "--quiet"]) == 0
        assert (out / "report.html").exists()
        return Ran(lines(out), steps)

    @once
    def decoded(self) -> Ran:
        """bfloat16, decoded by a worker process."""
        with pretended() as cuda, each_step(cuda) as steps:
            options = ("--device", "cuda", "--precision", "bf16", "--resident", "off", "--workers", "1", "--no-report")
            return Ran(self._run("decoded", *options), steps)

    def _run(self, name: str, *options: str) -> list[dict[str, Any]]:
        assert main([*self.command, *options, "--out", str(self.out / name)]) == 0
        return lines(self.out / name)


@pytest.fixture(scope="session", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def runs(method: str, images: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(method, images, tmp_path_factory.mktemp(method))


def test_float32_is_the_cpu_s(runs: Runs) -> None:
    follow(runs.resident.lines, runs.on_cpu, within=1e-5)


def test_bfloat16_follows(method: str, runs: Runs) -> None:
    follow(runs.decoded.lines, runs.on_cpu, within=BFLOAT16_WITHIN[method])


def test_a_step_does_not_wait(method: str, runs: Runs) -> None:
    wait_at_most(runs.resident.steps, WAITS[method], LAUNCHES[method])


def test_a_step_with_decoding_waits_once_at_most(method: str, runs: Runs) -> None:
    wait_at_most(runs.decoded.steps, WAITS[method] + WAITS_TO_DECODE)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def each_step(cuda: Device) -> Iterator[list[Log]]:
    """steps[i]: from the end of the optimiser's step i to the end of its step i + 1, counted from 1; [0] is before."""
    steps: list[Log] = []
    with cuda.watched() as total:

        def ended(*_: object) -> None:
            steps.append(Log(**{name: counter.copy() for name, counter in vars(total).items()}))
            for counter in vars(total).values():
                counter.clear()

        hook = register_optimizer_step_post_hook(ended)
        try:
            yield steps
        finally:
            hook.remove()


def test_images_that_the_gpu_has_no_room_for(images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay in main memory; a batch of them crosses without a wait, and its crops are those of the CPU."""
    free = sources._free
    monkeypatch.setattr(sources, "_free", lambda device: free(device) if device.type == "cpu" else 1000)
    folder, recipe = open_images(f"folder:{images[0]}"), train_recipe(SwavSettings(crops=("2x16@0.2-1",), blur=0.5))
    batches = [torch.tensor([4, 0, 9]), torch.tensor([7, 7])]

    def crops(device: torch.device) -> Iterator[list[torch.Tensor]]:
        loader = Loader(Source.of(folder, "24", device), recipe, seed=3, device=device, workers=0)
        assert loader.source.pixels is not None
        assert loader.source.pixels.device.type == "cpu"
        return (batch for batch, _ in loader.batches(2, batches))

    with pretended() as cuda:
        made = crops(torch.device("cuda", 0))
        with cuda.watched() as log:
            ours = cuda.peek(list(made))
        assert log.waits == {}, log.waits_by_line()
        assert all(copy.pinned for copy in log.copies)
    for one, other in zip(ours, crops(torch.device("cpu")), strict=True):
        assert all(map(torch.equal, one, other))


def wait_at_most(steps: list[Log], n: int, launches: int | None = None) -> None:
    """n, and some more where a line of the log or a checkpoint is written; `launches` at most in the other steps.

    Prints both: `pytest -rP` shows them."""
    too_many: dict[str, list[int]] = {}  # what was wrong, and in which steps
    for step, log in enumerate(steps, 1):
        since = step - 1  # the step whose log line and checkpoint come first
        if since % (N // BATCH) == 0:
            continue  # an epoch begins: clusters, scores
        bound = n + WAITS_TO_LOG * (since % LOG_EVERY == 0) + WAITS_TO_SAVE * (since % CHECKPOINT_EVERY == 0)
        print(f"step {step}: {log.launches.total()} launches, {log.n_waits} waits of at most {bound}")
        plain = since % LOG_EVERY and since % CHECKPOINT_EVERY
        if launches is not None and plain and log.launches.total() > launches:
            text = f"{log.launches.total()} launches instead of at most {launches}: {log.launches.most_common(12)}"
            too_many.setdefault(text, []).append(step)
        if log.n_waits > bound:
            text = f"{log.n_waits} waits instead of at most {bound}; {log.waits_by_line()}"
            too_many.setdefault(text, []).append(step)
        # these wait too, until the driver has taken the bytes over, though torch's debug mode does not say so
        if pageable := sorted({str(copy.place) for copy in log.copies if not copy.blocking and not copy.pinned}):
            too_many.setdefault(f"non_blocking copies of memory that is not pinned: {pageable}", []).append(step)
    if too_many:
        pytest.fail("\n".join(f"in steps {which}: {text}" for text, which in too_many.items()), pytrace=False)


def follow(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], within: float) -> None:
    """Losses of the same steps, and a kNN score at the same moments."""
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, expected in zip(ours, theirs, strict=True):
        if "loss" in expected:
            assert mine["loss"] == pytest.approx(expected["loss"], rel=within), f"step {mine['step']}"
        assert ("knn_top1" in mine) == ("knn_top1" in expected)
