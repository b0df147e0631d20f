"""Training steps of each method, as `pretrain.train.train` does them, against its bare backbone on the same crops.

    python benchmarks/bench_step.py                          # CIFAR size on this machine's CPU
    python benchmarks/bench_step.py --size imagenet --device cuda --batch 256
    pytest benchmarks/bench_step.py                          # that it runs

Nothing of the loop is copied: `train` runs, with random images and with memories and labels of random features, as in
the middle of a run. After each step it is held up for a forward and a backward pass of the backbone alone, on the crops
of that step and in the precision of the run. A step is loss, backward pass, optimiser and memories; the ratio is the
median of the rounds' ratios, so that a busy machine slows both sides of a round. Then as many steps run freely, crops
and all: images a second. A line says so where the step and the bare pass compute in different precisions. Owed: 1.11
(design, section 6)."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from indexed_images import TrainAndTest
from pretrain.assemble import method_class
from pretrain.loader import Loader
from pretrain.method import Method
from pretrain.settings import METHODS, RunSettings
from pretrain.sources import Source
from pretrain.train import train
from steady_runs.checkpoint import Checkpoints
from torch import Tensor, nn

# n: images of the set, as memories count them; stored: of them, random ones in memory, which take turns
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"arch": "resnet18", "width": 0.25, "stem": "cifar", "batch": 32, "n": 1_000, "k": 10, "large": 16},
    "cifar": {"arch": "resnet18", "width": 1.0, "stem": "cifar", "batch": 64, "n": 50_000, "k": 1000, "large": 32},
    "imagenet": {
        "arch": "resnet50",
        "width": 1.0,
        "stem": "imagenet",
        "batch": 64,
        "n": 1_281_167,
        "k": 3000,
        "large": 224,
    },
}
N_WARM = 3  # steps before anything is timed
STORED_MIB = 256


@dataclass(frozen=True)
class Speed:
    """bare_ms: of the backbone's forward and backward pass. ratio: of a step without its crops to that. crops: making
    them, as a share of the bare pass. free_ratio: of a step of the loop that nobody looks at, crops and all.
    step_dtype, bare_dtype: what the first convolution computes in."""

    bare_ms: float
    ratio: float
    crops: float
    free_ratio: float
    images_per_s: float
    step_dtype: str
    bare_dtype: str


def settings_of(name: str, size: dict[str, Any], **more: Any) -> RunSettings:
    large, small = size["large"], 3 * size["large"] // 7 // 2 * 2
    one = name in ("odc", "deepcluster")
    crops = (f"1x{large}@0.08-1",) if one else (f"2x{large}@0.14-1", f"6x{small}@0.05-0.14")
    values: dict[str, Any] = {key: size[key] for key in ("arch", "width", "stem", "batch", "k")} | {"crops": crops}
    if name == "swav":
        values |= {"freeze_prototypes_steps": 0, "queue_from_epoch": 0}
    return METHODS[name].model_validate({"method": name} | values | more)


def fill(method: Method, n: int) -> None:
    """Memories and labels of random features, as in the middle of a run; in the place of `start`."""
    state: Any = method
    device = next(method.parameters()).device
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(method.k, (n,), generator=g).to(device)
    if isinstance(method, method_class("odc")):
        dim = state.memory.bank.shape[1]
        state.memory.initialise(F.normalize(torch.randn(n, dim, generator=g)).to(device), labels)
    elif isinstance(method, method_class("deepcluster")):
        state.adopt(labels)
    elif isinstance(method, method_class("deepcluster_v2")):
        state.labels.copy_(labels)
        state.centroids.copy_(F.normalize(torch.randn(state.centroids.shape, generator=g), dim=-1))
    elif state.queue is not None:  # SwAV's, full
        n_crops, length, dim = state.queue.embeddings.shape
        state.queue.push(F.normalize(torch.randn(n_crops, length, dim, generator=g), dim=-1).to(device))


class RandomImages:
    """What `train` asks of its images: n of them by number, of which a few are stored and take turns."""

    labels, skipped = None, ()

    def __init__(self, n: int, side: int) -> None:
        self.n = n
        n_stored = max(8, min(n, STORED_MIB * 2**20 // (3 * side * side)))
        g = torch.Generator().manual_seed(1)
        self.pixels = torch.randint(0, 256, (n_stored, 3, side, side), dtype=torch.uint8, generator=g)

    def __len__(self) -> int:
        return self.n


class Stopwatch:
    """Called by the hooks below; rounds of a step and a bare pass in turn, as many free steps, then `profile`'s."""

    def __init__(self, device: torch.device, rounds: int, profile: Any = None) -> None:
        self.device, self.rounds, self.profile = device, rounds, profile
        self.done = 0
        self.step_s: list[float] = []
        self.bare_s: list[float] = []
        self.crops_s: list[float] = []
        self.free_s = 0.0
        self.dtypes: dict[str, str] = {}
        self._since = 0.0
        self._crops: list[Tensor] = []

    @property
    def n_steps(self) -> int:
        return N_WARM + 2 * self.rounds + (0 if self.profile is None else self.profile.n_steps)

    @property
    def in_turn(self) -> bool:
        return self.done < N_WARM + self.rounds

    def begin(self, method: Method, crops: list[Tensor]) -> None:
        if not self.in_turn:
            return
        self._crops = crops
        if self.done == 0:
            self._note_dtype(method, "step")
        began = now(self.device)
        if self.done >= N_WARM:
            self.crops_s.append(began - self._since)
        self._since = began

    def end(self, method: Method, run: Any) -> None:
        if self.in_turn:
            ended = now(self.device)
            if self.done == 0:
                self._note_dtype(method, "bare")
            self._bare(method, run)
            after = now(self.device)
            if self.done >= N_WARM:
                self.step_s.append(ended - self._since)
                self.bare_s.append(after - ended)
            self._since = after
        self.done += 1
        if self.done == N_WARM + 2 * self.rounds:
            self.free_s = (now(self.device) - self._since) / self.rounds
        if self.profile is not None and self.done == self.n_steps - self.profile.n_steps:
            self.profile.begin()
        elif self.profile is not None and self.done == self.n_steps:
            self.profile.end()

    def _bare(self, method: Method, run: Any) -> None:
        with run.machine.fabric.autocast():
            features = method.backbone(self._crops)
        parameters = [p for p in method.backbone.parameters() if p.requires_grad]
        torch.autograd.grad(features, parameters, torch.ones_like(features), allow_unused=True)

    def _note_dtype(self, method: Method, side: str) -> None:
        def note(_: nn.Module, __: Any, out: Tensor) -> None:
            self.dtypes[side] = str(out.dtype).removeprefix("torch.")
            hook.remove()

        first = next(m for m in method.backbone.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad)
        hook = first.register_forward_hook(note)


@contextlib.contextmanager
def watched_by(watch: Stopwatch, name: str, images: RandomImages) -> Iterator[None]:
    """`train` with random images and memories, and `watch` told where steps begin and end."""
    cls = method_class(name)
    loss, after_step, batches = cls.loss, cls.after_step, Loader.batches

    def timed_loss(self: Method, crops: list[Tensor], indices: Tensor) -> Tensor:
        watch.begin(self, crops)
        value: Tensor = loss(self, crops, indices)
        return value

    def timed_after_step(self: Method, run: Any, indices: Tensor) -> None:
        after_step(self, run, indices)
        watch.end(self, run)

    def stored(images: RandomImages, _: str, device: torch.device, *rest: Any) -> Source:
        return Source(images, images.pixels.to(device))  # type: ignore[arg-type]

    def stored_batches(self: Loader, epoch: int, indices: list[Tensor], *rest: Any) -> Iterator[Any]:
        """Of the stored images; the method is given the numbers that were asked for."""
        n = len(images.pixels)
        numbers = torch.cat(indices).to(self.device).split([len(part) for part in indices])
        for (crops, _), number in zip(
            batches(self, epoch, [part % n for part in indices], *rest), numbers, strict=True
        ):
            yield crops, number

    changes: list[Callable[[], Any]] = [
        lambda: patch.object(cls, "loss", timed_loss),
        lambda: patch.object(cls, "after_step", timed_after_step),
        lambda: patch.object(cls, "start", lambda self, run: fill(self, run.n_images)),
        lambda: patch.object(cls, "begin_epoch", lambda self, run, epoch: None),
        lambda: patch.object(Source, "of", stored),
        lambda: patch.object(Loader, "batches", stored_batches),
        lambda: patch("pretrain.images.open_both", lambda settings: TrainAndTest(images, None, ())),  # type: ignore[arg-type]
        lambda: patch.object(Checkpoints, "save", lambda *_, **__: True),  # gigabytes of random features
    ]
    with contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(change())
        yield


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    name: str, size: dict[str, Any], device: torch.device, rounds: int, profile: Any = None, **more: Any
) -> Speed:
    """more: settings of the run, such as precision. profile: `n_steps`, and `begin` and `end` around that many."""
    images = RandomImages(size["n"], size["large"] if size["large"] < 96 else 256)
    watch = Stopwatch(device, rounds, profile)
    with tempfile.TemporaryDirectory() as folder, watched_by(watch, name, images):
        run = {"out": str(Path(folder) / "run"), "device": device.type, "epochs": 1_000, "lr": 1e-4}
        run |= {"max_steps": watch.n_steps, "log_every": 10**9, "knn_every": 0, "report": False, "quiet": True}
        run |= {"checkpoint_every": str(10**9), "on_collapse": "warn"}
        with contextlib.redirect_stdout(None):  # the result of a run of no use
            train(settings_of(name, size, **run | more))
    bare = statistics.median(watch.bare_s)
    return Speed(
        bare_ms=1000 * bare,
        ratio=statistics.median(b / a for a, b in zip(watch.bare_s, watch.step_s, strict=True)),
        crops=statistics.median(watch.crops_s) / bare,
        free_ratio=watch.free_s / bare,
        images_per_s=size["batch"] / watch.free_s,
        step_dtype=watch.dtypes["step"],
        bare_dtype=watch.dtypes["bare"],
    )


@pytest.mark.parametrize("name", list(METHODS))
def test_bench_step(name: str) -> None:
    speed = measure(name, SIZES["tiny"], torch.device("cpu"), rounds=1, precision="32")
    assert min(speed.bare_ms, speed.ratio, speed.crops, speed.free_ratio, speed.images_per_s) > 0
    assert speed.step_dtype == speed.bare_dtype == "float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="cifar")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["auto", "32", "bf16"], default="auto", help="as pretrain has it")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    given = parser.parse_args()
    size = SIZES[given.size] | ({"batch": given.batch} if given.batch else {})
    device = torch.device(given.device)
    print(f"{given.size}: {size}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| method | bare pass, ms | step / bare | crops / bare | free step / bare | images/s | in |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in given.method:
        s = measure(name, size, device, given.rounds, precision=given.precision)
        figures = f"{s.bare_ms:.1f} | {s.ratio:.3f} | {s.crops:.3f} | {s.free_ratio:.3f} | {s.images_per_s:.0f}"
        print(f"| {name} | {figures} | {s.step_dtype} |", flush=True)
        if s.step_dtype != s.bare_dtype:
            print(f"{name}: the step computes in {s.step_dtype}, the bare pass in {s.bare_dtype}: no fair ratio")


if __name__ == "__main__":
    main()
