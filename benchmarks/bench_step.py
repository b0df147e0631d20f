"""One training step of each method against forward + backward of its bare backbone on the same crops, in turn.

    python benchmarks/bench_step.py                          # CIFAR size on this machine's CPU
    python benchmarks/bench_step.py --size imagenet --device cuda
    pytest benchmarks/bench_step.py                          # that it runs

The step is the loop's: heads, loss, backward pass, optimiser, memories. Crops are made before; what making them costs
is the last column, as a share of the bare pass (on one process, from uint8 images in memory). The ratio is the median
of the rounds' ratios, so that a busy machine slows both sides of a round. Owed: 1.11 (design, section 6)."""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pretrain.build import build_method, build_optimizer, prepare_step
from pretrain.config import METHODS, Settings
from pretrain.data import train_recipe
from pretrain.method import Method
from torch import Tensor

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


def settings_of(name: str, size: dict[str, Any]) -> Settings:
    large, small = size["large"], 3 * size["large"] // 7 // 2 * 2
    one = name in ("odc", "deepcluster")
    crops = (f"1x{large}@0.08-1",) if one else (f"2x{large}@0.14-1", f"6x{small}@0.05-0.14")
    values: dict[str, Any] = {key: size[key] for key in ("arch", "width", "stem", "batch", "k")} | {"crops": crops}
    if name == "swav":
        values |= {"freeze_prototypes_steps": 0}
    return METHODS[name](method=name, **values)


def ready(name: str, size: dict[str, Any], device: torch.device) -> Method:
    """The method in the middle of a run: memories and labels of random features."""
    settings = settings_of(name, size)
    method = build_method(settings, size["n"], None, sync_bn=False, cuda=device.type == "cuda").to(device)
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(method.k, (size["n"],), generator=g)
    state: Any = method
    if name == "odc":
        state.memory.initialise(
            F.normalize(torch.randn(size["n"], settings.neck_dim, generator=g)).to(device), labels.to(device)
        )  # type: ignore[attr-defined]
    elif name == "deepcluster":
        state.adopt(labels.to(device))
    elif name == "deepcluster_v2":
        state.labels.copy_(labels)
        state.centroids.copy_(F.normalize(torch.randn(state.centroids.shape, generator=g), dim=-1))
    elif state.queue is not None:  # SwAV's, full
        state.queue.embeddings.copy_(F.normalize(torch.randn(state.queue.embeddings.shape, generator=g), dim=-1))
        state.queue.n_valid.fill_(state.queue.embeddings.shape[1])
        state.queue_open.fill_(True)
    return method.train()


def crops_of(settings: Settings, size: dict[str, Any], device: torch.device) -> tuple[list[Tensor], Tensor, float]:
    """Crops of random images, their indices, and the seconds that a second making of them took."""
    from multicrop_aug import render

    g = torch.Generator().manual_seed(1)
    side = size["large"] if size["large"] < 96 else 256
    pixels = torch.randint(0, 256, (size["batch"], 3, side, side), dtype=torch.uint8, generator=g).to(device)
    indices = torch.arange(size["batch"], device=device)
    recipe, seconds = train_recipe(settings), 0.0
    for epoch in range(2):
        began = now(device)
        plan = recipe.draw(indices, epoch=epoch, sizes=(side, side), seed=0)
        crops = render(pixels, plan, memory_format=torch.channels_last)
        seconds = now(device) - began
    return crops, indices, seconds


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(name: str, size: dict[str, Any], device: torch.device, rounds: int) -> tuple[float, float, float]:
    """(milliseconds of the bare pass, ratio, share of making the crops)."""
    settings, method = settings_of(name, size), ready(name, size, device)
    optimizer = build_optimizer(method, settings)
    crops, indices, crop_s = crops_of(settings, size, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    run: Any = SimpleNamespace(step=0, group=None)

    def bare() -> None:
        with autocast:
            features = method.backbone(crops)
        features.backward(torch.ones_like(features))
        method.backbone.zero_grad()

    def step() -> None:
        torch.manual_seed(run.step)
        with autocast:
            loss = method.loss(crops, indices)
        optimizer.zero_grad()
        loss.backward()
        prepare_step(optimizer, run.step, 1e-4)
        optimizer.step()
        method.after_step(run, indices)
        run.step += 1

    for side in (bare, step, bare, step):
        side()
    seconds: dict[Any, list[float]] = {bare: [], step: []}
    for _ in range(rounds):
        for side in (bare, step):
            began = now(device)
            side()
            seconds[side].append(now(device) - began)
    ratio = statistics.median(b / a for a, b in zip(seconds[bare], seconds[step], strict=True))
    return 1000 * statistics.median(seconds[bare]), ratio, crop_s / statistics.median(seconds[bare])


@pytest.mark.parametrize("name", list(METHODS))
def test_bench_step(name: str) -> None:
    bare_ms, ratio, _ = measure(name, SIZES["tiny"], torch.device("cpu"), rounds=1)
    assert bare_ms > 0
    assert ratio > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="cifar")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    given = parser.parse_args()
    device = torch.device(given.device)
    print(f"{given.size}: {SIZES[given.size]}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| method | bare pass, ms | step / bare | crops / bare |\n| --- | --- | --- | --- |")
    for name in given.method:
        bare_ms, ratio, crops = measure(name, SIZES[given.size], device, given.rounds)
        print(f"| {name} | {bare_ms:.0f} | {ratio:.3f} | {crops:.3f} |", flush=True)


if __name__ == "__main__":
    main()
