"""multicrop-aug's CPU backend against torchvision, one thread a process, both sides in one run on one machine.

    python benchmarks/bench_multicrop_aug.py                     # tables: SwAV from JPEG, processes, 32-pixel sets
    python benchmarks/bench_multicrop_aug.py --json speed.json
    pytest benchmarks/bench_multicrop_aug.py --benchmark-columns=median,stddev,rounds

SwAV from JPEG: 2 x 224 + 6 x 96 crops of one file, decoding included, `MultiCrop(swav())` against the eight PIL +
torchvision v1 pipelines of the SwAV code; files are 500 x 375 drawn images and, where ../shared/data (or
CLUSTER_SSL_DATA) has them, photographs of VOC 2012 and ImageNet. Sides take turns; a time is the median of processor
time, a ratio the median of the turns' ratios.
Processes: images per second of two processes over twice those of one, by wall time, and by processor time, which other
work on the machine slows less.
32-pixel sets: draw and render of batches of 512 from a resident uint8 set, two crops an image.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from multicrop_aug import Blur, CropSpec, Jitter, MultiCrop, Recipe, odc, render, swav
from PIL import Image, ImageFilter
from torchvision import transforms as v1
from torchvision.transforms import v2

DATA = Path(os.environ.get("CLUSTER_SSL_DATA", Path(__file__).parents[2] / "shared" / "data"))
PHOTOGRAPHS = {
    "VOC 2012": "voc/voc2012_subset.tar",
    "ImageNet, 160 px": "imagenet_small/imagenet1k_one_per_class_160.tar",
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photos(n: int, height: int, width: int) -> torch.Tensor:
    """Smooth noise with grain, so that a JPEG of it is about as large as a photograph's."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, height // 8, width // 8, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 235 + torch.rand(n, 3, height, width, generator=g) * 20).byte()


def jpegs(n: int) -> list[bytes]:
    files = []
    for image in photos(n, 375, 500):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def photographs(name: str, n: int) -> list[bytes]:
    """The first n JPEGs of a tar file; skips a test if there is none."""
    path = DATA / PHOTOGRAPHS[name]
    if not path.exists():
        pytest.skip(f"no {path.name} in {DATA}: set CLUSTER_SSL_DATA")
    files = []
    with tarfile.open(path) as tar:
        while len(files) < n and (member := tar.next()):
            if member.name.lower().endswith((".jpg", ".jpeg")):
                files.append(tar.extractfile(member).read())  # type: ignore[union-attr]
    return files


def torchvision_odc(size: int) -> v2.Compose:
    recipe = odc(size)
    jitter = recipe.jitter
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(2),
            v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(recipe.mean, recipe.std),
        ]
    )


def torchvision_swav() -> list[v1.Compose]:
    """PIL images through torchvision v1, as the SwAV code does."""
    recipe = swav()

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(torch.empty(1).uniform_(0.1, 2.0).item()))

    def pipeline(size: int, scale: tuple[float, float]) -> v1.Compose:
        return v1.Compose(
            [
                v1.RandomResizedCrop(size, scale),
                v1.RandomHorizontalFlip(),
                v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                v1.RandomGrayscale(0.2),
                v1.RandomApply([blur], p=0.5),
                v1.ToTensor(),
                v1.Normalize(recipe.mean, recipe.std),
            ]
        )

    return [pipeline(spec.size, spec.scale) for spec in recipe.specs for _ in range(spec.n_crops)]


def simclr_32(blur: bool) -> Recipe:
    """Two crops of 32 pixels, SimCLR's distortions for CIFAR, with or without blur."""
    jitter = Jitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    return Recipe((CropSpec(32, 2, scale=(0.2, 1.0)),), jitter=jitter, grey=0.2, blur=Blur(0.5 if blur else 0.0))


def ours_from_files(files: list[bytes], transform: MultiCrop) -> None:
    for i, file in enumerate(files):
        transform(file, index=i)


def theirs_from_files(files: list[bytes], transforms: list[v1.Compose]) -> None:
    for file in files:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        for transform in transforms:
            transform(image)


def draw_and_render(recipe: Recipe, images: torch.Tensor, rows: torch.Tensor | None = None) -> list[torch.Tensor]:
    indices = torch.arange(len(images)) if rows is None else rows
    plan = recipe.draw(indices, 0, tuple(images.shape[-2:]), seed=0)
    return render(images, plan, rows=rows)


def test_bench_odc_32_batch_of_256(benchmark):
    benchmark.extra_info["images"] = 256
    benchmark(draw_and_render, odc(32), photos(256, 32, 32))


def test_bench_odc_32_torchvision_v2(benchmark):
    images, transform = photos(256, 32, 32), torchvision_odc(32)
    benchmark.extra_info["images"] = 256
    benchmark(lambda: torch.stack([transform(image) for image in images]))


@pytest.mark.parametrize("blur", [False, True], ids=["", "with_blur"])
def test_bench_simclr_2x32_batch_of_512(benchmark, blur: bool):
    images, rows = photos(5000, 32, 32), torch.arange(0, 5000, 9)[:512]
    benchmark.extra_info["images"] = 512
    benchmark(draw_and_render, simclr_32(blur), images, rows)


def test_bench_odc_224_from_500x375(benchmark):
    benchmark.extra_info["images"] = 16
    benchmark(draw_and_render, odc(224), photos(16, 375, 500))


def test_bench_odc_224_torchvision_v2(benchmark):
    images, transform = photos(16, 375, 500), torchvision_odc(224)
    benchmark.extra_info["images"] = 16
    benchmark(lambda: torch.stack([transform(image) for image in images]))


@pytest.mark.parametrize("source", ["drawn", *PHOTOGRAPHS])
def test_bench_swav_2x224_6x96_from_jpeg(benchmark, source: str):
    files, transform = jpegs(8) if source == "drawn" else photographs(source, 8), MultiCrop(swav())
    benchmark.extra_info["images"] = 8
    benchmark(ours_from_files, files, transform)


@pytest.mark.parametrize("source", ["drawn", *PHOTOGRAPHS])
def test_bench_swav_2x224_6x96_from_jpeg_pil_torchvision_v1(benchmark, source: str):
    files, transforms = jpegs(8) if source == "drawn" else photographs(source, 8), torchvision_swav()
    benchmark.extra_info["images"] = 8
    benchmark(theirs_from_files, files, transforms)


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], turns: int) -> tuple[float, float, float]:
    """Median seconds of processor time of each, and the median of theirs over ours."""
    ours(), theirs()
    times = []
    for _ in range(turns):
        start = time.process_time()
        ours()
        middle = time.process_time()
        theirs()
        times.append((middle - start, time.process_time() - middle))
    mine, others = zip(*times, strict=True)
    return statistics.median(mine), statistics.median(others), statistics.median(b / a for a, b in times)


def swav_table(turns: int) -> dict[str, Any]:
    transforms, transform, table = torchvision_swav(), MultiCrop(swav()), {}
    sources: dict[str, Callable[[], list[bytes]]] = {"drawn, 500 x 375": lambda: jpegs(8)}
    sources |= {name: lambda name=name: photographs(name, 8) for name in PHOTOGRAPHS}  # type: ignore[misc]
    for name, files_of in sources.items():
        try:
            files = files_of()
        except pytest.skip.Exception as reason:
            print(f"{name}: left out, {reason}")
            continue
        mine, others, ratio = in_turns(
            lambda files=files: ours_from_files(files, transform),  # type: ignore[misc]
            lambda files=files: theirs_from_files(files, transforms),  # type: ignore[misc]
            turns,
        )
        table[name] = {
            "ours_ms": 1e3 * mine / len(files),
            "torchvision_v1_ms": 1e3 * others / len(files),
            "ratio": ratio,
        }
    return table


def _work(files: list[bytes], transform: MultiCrop, seconds: float, go: Any, counts: Any) -> None:
    torch.set_num_threads(1)
    ours_from_files(files, transform)
    go.wait()
    start, cpu_start, n = time.perf_counter(), time.process_time(), 0
    while (spent := time.perf_counter() - start) < seconds:
        ours_from_files(files, transform)
        n += len(files)
    counts.put((n / spent, n / (time.process_time() - cpu_start)))


def rates(files: list[bytes], transform: MultiCrop, n_processes: int, seconds: float) -> tuple[float, float]:
    """Images per second of all processes together, by wall time and by processor time."""
    context = multiprocessing.get_context("fork")
    go, counts = context.Barrier(n_processes), context.Queue()
    workers = [context.Process(target=_work, args=(files, transform, seconds, go, counts)) for _ in range(n_processes)]
    for worker in workers:
        worker.start()
    wall, processor = zip(*(counts.get() for _ in workers), strict=True)
    for worker in workers:
        worker.join()
    return sum(wall), sum(processor)


def process_table(turns: int) -> dict[str, Any]:
    files, transform = jpegs(8), MultiCrop(swav())
    turn_rates = [[rates(files, transform, n, seconds=1.0) for n in (1, 2)] for _ in range(turns)]
    table = {}
    for i, clock in enumerate(("wall", "processor")):
        one, two = zip(*((alone[i], both[i]) for alone, both in turn_rates), strict=True)
        table[f"{clock} time"] = {
            "images_per_s_1": statistics.median(one),
            "images_per_s_2": statistics.median(two),
            "efficiency": statistics.median(b / (2 * a) for a, b in zip(one, two, strict=True)),
        }
    return table


def small_table(turns: int) -> dict[str, Any]:
    images = photos(20000, 32, 32)
    batches = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(512)[:8]
    table = {}
    for name, blur in (("simclr 2 x 32", False), ("simclr 2 x 32, blur", True)):
        recipe, row = simclr_32(blur), {}
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            times = []
            for _ in range(turns + 1):
                start, cpu_start = time.perf_counter(), time.process_time()
                for rows in batches:
                    draw_and_render(recipe, images, rows)
                times.append((time.perf_counter() - start, time.process_time() - cpu_start))
            n_images = sum(map(len, batches))
            wall, processor = (statistics.median(column) / n_images for column in zip(*times[1:], strict=True))
            row[f"images_per_s_{n_threads}_threads"] = 1 / wall
            row[f"processor_us_a_crop_{n_threads}_threads"] = 1e6 * processor / 2
        table[name] = row
    torch.set_num_threads(1)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the tables there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = {
        "SwAV 2 x 224 + 6 x 96 from JPEG, one core": swav_table(arguments.turns),
        "the same in one and two processes": process_table(arguments.turns),
        "32-pixel sets in memory, two crops an image": small_table(arguments.turns),
    }
    for title, table in tables.items():
        print(title)
        for name, row in table.items():
            print(f"  {name:20}", "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
