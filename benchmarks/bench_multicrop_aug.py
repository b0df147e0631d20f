"""multicrop-aug against the same pipelines written with torchvision v2, sample by sample; one thread, CPU.

pytest benchmarks/bench_multicrop_aug.py --benchmark-columns=median,stddev,rounds
"""

import io

import pytest
import torch
from multicrop_aug import MultiCrop, Recipe, odc, render, swav
from PIL import Image, ImageFilter
from torchvision import transforms as v1
from torchvision.transforms import v2


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


def draw_and_render(recipe: Recipe, images: torch.Tensor) -> list[torch.Tensor]:
    plan = recipe.draw(torch.arange(len(images)), 0, tuple(images.shape[-2:]), seed=0)
    return render(images, plan)


def test_bench_odc_32_batch_of_256(benchmark):
    benchmark.extra_info["images"] = 256
    benchmark(draw_and_render, odc(32), photos(256, 32, 32))


def test_bench_odc_32_torchvision_v2(benchmark):
    images, transform = photos(256, 32, 32), torchvision_odc(32)
    benchmark.extra_info["images"] = 256
    benchmark(lambda: torch.stack([transform(image) for image in images]))


def test_bench_odc_224_from_500x375(benchmark):
    benchmark.extra_info["images"] = 16
    benchmark(draw_and_render, odc(224), photos(16, 375, 500))


def test_bench_odc_224_torchvision_v2(benchmark):
    images, transform = photos(16, 375, 500), torchvision_odc(224)
    benchmark.extra_info["images"] = 16
    benchmark(lambda: torch.stack([transform(image) for image in images]))


def test_bench_swav_2x224_6x96_from_jpeg(benchmark):
    files, transform = jpegs(8), MultiCrop(swav())
    benchmark.extra_info["images"] = 8
    benchmark(lambda: [transform(file, index=i) for i, file in enumerate(files)])


def test_bench_swav_2x224_6x96_from_jpeg_pil_torchvision_v1(benchmark):
    files, transforms = jpegs(8), torchvision_swav()

    def crops(file: bytes) -> list[torch.Tensor]:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        return [transform(image) for transform in transforms]

    benchmark.extra_info["images"] = 8
    benchmark(lambda: [crops(file) for file in files])
