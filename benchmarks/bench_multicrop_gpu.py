"""SwAV's crops on a GPU, 2 x 224 + 6 x 96 of 256 images: ours (triton, torch) beside kornia and torchvision v2.

    python benchmarks/bench_multicrop_gpu.py                       # on a GPU; --images, --dtype, --rounds, --json FILE
    python benchmarks/bench_multicrop_gpu.py --size 32             # 2 x 32 + 6 x 12, of 36 x 36 images
    python benchmarks/bench_multicrop_gpu.py --smoke               # seconds, on any machine: that it runs, no figures
    python benchmarks/bench_multicrop_gpu.py --blur 0 --jitter 0   # where the time goes

Two inputs: a set of 256 x 256 images (8/7 of the large crops) resident on the device, of which a batch is picked by
index, and a batch of decoded images of ImageNet's sizes, packed in one buffer on the device (the copy from the host is
timed by itself).
Ours reads uint8 and writes the dtype asked for, channels last; the plan is there already (`render`) or is drawn on the
CPU first and sent over (`draw + render`). kornia and torchvision are given float32 on the device: to convert it is not
timed.
torchvision v2 draws once a batch, so `by batch` is not the same augmentation, and `by image` is timed on few images.

The floor is what must move through memory: each box read once, each crop written once, over the bandwidth of a copy
measured here. Crops that drew a blur are written and read once more in float32 by ours: that is in `moved`, not in
the floor. Times are medians in ms between device events, kernels compiled before; without a GPU, of the process' clock.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from multicrop_aug import Blur, CropPlan, PackedImages, Recipe, render, swav
from torch import Tensor

OURS = "ours, {backend}: render"  # what the rows of the fastest are called


@dataclass(frozen=True)
class Batch:
    """Images on the device, the same as float32 for the others, and what of them to render."""

    images: Tensor | PackedImages
    rows: Tensor | None
    sizes: Tensor  # (B, 2)


def recipe_of(args: argparse.Namespace) -> Recipe:
    recipe = swav(32, small_size=18) if args.smoke else swav(args.size, small_size=3 * args.size // 7 // 2 * 2)
    return replace(recipe, blur=Blur(args.blur), jitter=replace(recipe.jitter, p=args.jitter))


def resident(n_images: int, side: int, device: torch.device) -> Batch:
    g = torch.Generator().manual_seed(0)
    n_set = 2 * n_images
    coarse = torch.rand(n_set, 3, 16, 16, generator=g)
    images = torch.nn.functional.interpolate(coarse.to(device), (side, side), mode="bilinear").mul(255).byte()
    rows = torch.randperm(n_set, generator=g)[:n_images].to(device)
    return Batch(images, rows, torch.tensor([side, side]).expand(n_images, 2))


def ragged(n_images: int, side: int) -> PackedImages:
    """Sides about those of ImageNet, 375 x 500, for side=256."""
    g = torch.Generator().manual_seed(0)
    sides = (torch.tensor([1.46, 1.95]) * side * (0.7 + 0.6 * torch.rand(n_images, 2, generator=g))).long()
    return PackedImages.pack(
        [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=g).permute(2, 0, 1) for h, w in sides.tolist()]
    )


def milliseconds(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    for _ in range(2):
        call()
    times = []
    for _ in range(rounds):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            before = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)


def bandwidth(device: torch.device, rounds: int) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.empty(1 << (30 if device.type == "cuda" else 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / milliseconds(lambda: target.copy_(source), device, rounds) * 1000


def bytes_moved(plan: CropPlan, dtype: torch.dtype) -> tuple[int, int]:
    """Of the floor, and of ours."""
    floor = blurred = 0
    for group in plan.groups:
        pixels = group.size**2
        floor += 3 * int(group.box[..., 2:].long().prod(-1).sum()) + 3 * pixels * group.flip.numel() * dtype.itemsize
        blurred += 2 * 12 * pixels * int(group.blur.sum()) if "blur" in plan.order else 0
    return floor, floor + blurred


def kornia_side(recipe: Recipe, images: Tensor) -> Callable[[], object]:
    import kornia.augmentation as K
    from torch import nn

    jitter, blur = recipe.jitter, recipe.blur

    def pipeline(size: int, scale: tuple[float, float]) -> nn.Module:
        return nn.Sequential(
            K.RandomResizedCrop((size, size), scale, cropping_mode="resample"),
            K.RandomHorizontalFlip(),
            K.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, p=jitter.p),
            K.RandomGrayscale(p=recipe.grey),
            K.RandomGaussianBlur((17, 17), blur.sigma, p=blur.p),
            K.Normalize(torch.tensor(recipe.mean), torch.tensor(recipe.std)),
        ).to(images.device)

    pipelines = [pipeline(spec.size, spec.scale) for spec in recipe.specs for _ in range(spec.n_crops)]
    return lambda: [pipeline(images) for pipeline in pipelines]


def torchvision_side(recipe: Recipe, batches: list[Tensor]) -> Callable[[], object]:
    """Each of the batches through its own draws: one batch of all images, or images one by one."""
    from torchvision.transforms import v2

    jitter, blur = recipe.jitter, recipe.blur

    def pipeline(size: int, scale: tuple[float, float]) -> v2.Compose:
        colour = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([colour], p=jitter.p),
                v2.RandomGrayscale(recipe.grey),
                v2.RandomApply([v2.GaussianBlur(17, blur.sigma)], p=blur.p),
                v2.Normalize(recipe.mean, recipe.std),
            ]
        )

    pipelines = [pipeline(spec.size, spec.scale) for spec in recipe.specs for _ in range(spec.n_crops)]
    return lambda: [[pipeline(batch) for pipeline in pipelines] for batch in batches]


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, args.dtype)
    recipe, side, rounds = recipe_of(args), 40 if args.smoke else round(args.size * 8 / 7), args.rounds
    speed = bandwidth(device, rounds)
    host = ragged(args.images, side)
    host = host.pin_memory() if device.type == "cuda" else host
    inputs = {
        "resident": resident(args.images, side, device),
        "packed": Batch(host.to(device), None, host.sizes),
    }
    rows: list[dict[str, object]] = []

    def add(name: str, source: str, ms: float | str, **more: object) -> None:
        rows.append({"side": name, "input": source, "ms": ms, **more})
        shown = f"{ms:10.3f} ms" if isinstance(ms, float) else f"   skipped: {ms}"
        print(f"{source:9} {name:34}{shown}  " + "  ".join(f"{k} {v}" for k, v in more.items()), flush=True)

    print(
        f"{device_name(device)}, torch {torch.__version__}; a copy moves {speed / 1e9:.0f} GB/s; {args.images} images"
    )
    for source, batch in inputs.items():
        indices, sizes = torch.arange(args.images), batch.sizes
        plan = recipe.draw(indices, 0, sizes, seed=0).to(device)
        floor, moved = bytes_moved(plan, dtype)
        add("floor", source, 1000 * floor / speed, MB=round(floor / 1e6), moved_by_ours_MB=round(moved / 1e6))
        for backend in ("triton", "torch"):
            if backend == "triton" and device.type != "cuda":
                add("ours, triton", source, "no CUDA device (its interpreter would say nothing of speed)")
                continue

            def ours(plan: CropPlan, batch: Batch = batch, backend: str = backend) -> list[Tensor]:
                return render(
                    batch.images, plan, backend, rows=batch.rows, dtype=dtype, memory_format=torch.channels_last
                )

            ms = milliseconds(lambda: ours(plan), device, rounds)  # noqa: B023
            add(OURS.format(backend=backend), source, ms, times_floor=round(ms * speed / 1000 / floor, 1))
            both = lambda: ours(recipe.draw(indices, 0, sizes, seed=0))  # noqa: B023, E731
            add(f"ours, {backend}: draw + render", source, milliseconds(both, device, rounds))
    add("copy from the host", "packed", milliseconds(lambda: host.to(device, non_blocking=True), device, rounds))
    others(args, recipe, inputs["resident"], device, add)
    return rows


def others(
    args: argparse.Namespace, recipe: Recipe, batch: Batch, device: torch.device, add: Callable[..., None]
) -> None:
    assert isinstance(batch.images, Tensor)
    assert batch.rows is not None
    images, rounds = batch.images[batch.rows] / 255, max(1, args.rounds // 5)
    n_some = min(8, args.images)
    sides: dict[str, Callable[[], Callable[[], object]]] = {
        "kornia": lambda: kornia_side(recipe, images),
        "torchvision v2, by batch": lambda: torchvision_side(recipe, [images]),
        "torchvision v2, by image": lambda: torchvision_side(recipe, list(images[:n_some])),
    }
    for name, make in sides.items():
        try:
            call = make()
        except ImportError as missing:
            add(name, "resident", f"{missing.name} is not installed")
            continue
        ms = milliseconds(call, device, rounds) * (args.images / n_some if "image" in name else 1)
        add(name, "resident", ms, version=version(name.split()[0]))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, rough"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="of the large crops; the small ones are 3/7 of it")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--blur", type=float, default=0.5, help="probability")
    parser.add_argument("--jitter", type=float, default=0.8, help="probability")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--smoke", action="store_true", help="four small images, one round")
    args = parser.parse_args()
    if args.smoke:
        args.images, args.rounds = 4, 1
    rows = measure(args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
