"""Every operation on every backend against torchvision v2 (float and uint8 tensors) and PIL, on the same parameters.

`python packages/multicrop-aug/tests/test_multicrop_aug_parity.py` prints the table of the README: largest and mean
absolute difference in steps of 1/255.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from multicrop_aug import CropGroup, CropPlan, render, swav
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode

BACKENDS = ("cpu", "torch")
SIDE = 96  # of the images of operations without a resize
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
Picture = Tensor | Image.Image  # (3, H, W) float32 or uint8, or PIL: what torchvision's functions take


@dataclass(frozen=True)
class Case:
    """Images, the plan of their crops, and the same by torchvision's functions for image i."""

    images: list[Tensor]
    plan: CropPlan
    reference: Callable[[Picture, int], Picture]


def photograph(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Smooth colours, edges and a little noise, uint8 (3, H, W)."""
    coarse = torch.from_numpy(rng.random((1, 3, max(2, height // 24), max(2, width // 24)))).float()
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    x = x + 0.5 * ((rows // 17 + columns // 23) % 2 - 0.5) + 0.03 * torch.from_numpy(rng.standard_normal(x.shape))
    return (x * 255).round().clamp(0, 255).byte()


def noise(rng: np.random.Generator, height: int, width: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


def grey_picture(rng: np.random.Generator, height: int, width: int) -> Tensor:
    return photograph(rng, height, width)[:1].expand(3, -1, -1).contiguous()


def plan_of(
    images: list[Tensor], size: int, order: tuple[str, ...] = (), box: Tensor | None = None, **fields: Any
) -> CropPlan:
    """A plan of one crop per image with the given operations only."""
    n = len(images)
    sizes = torch.tensor([image.shape[-2:] for image in images])
    off, zero = torch.zeros(n, dtype=torch.bool), torch.zeros(n)
    values: dict[str, Any] = {
        "box": torch.cat((torch.zeros(n, 2, dtype=torch.int64), sizes), -1) if box is None else box,
        "resized": torch.full((n, 2), size),
        "offset": torch.zeros(n, 2),
        "flip": off,
        "angle": zero,
        "jitter": off,
        "factors": torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(n, 4),
        "jitter_order": torch.arange(4).expand(n, 4),
        "grey": off,
        "blur": off,
        "sigma": zero + 1,
        "solarise": off,
    } | {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    kinds = {"box": torch.int32, "resized": torch.int32, "offset": torch.int32, "jitter_order": torch.uint8}
    tensors = {name: value[None].to(kinds.get(name, value.dtype)).contiguous() for name, value in values.items()}
    group = CropGroup(size=size, interpolation=fields.get("interpolation", "bilinear"), **tensors)
    return CropPlan((group,), sizes, order, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 128 / 255)


def resize_case(interpolation: str, boxes: list[tuple[int, int, int, int, int, int]], size: int, make: Any) -> Case:
    """boxes: image height, width, then top, left, height, width."""
    rng = np.random.default_rng(0)
    images = [make(rng, height, width) for height, width, *_ in boxes]
    box = torch.tensor([b[2:] for b in boxes])

    def reference(x: Picture, i: int) -> Picture:
        out = tvf.resized_crop(x, *box[i].tolist(), [size, size], MODES[interpolation], antialias=True)
        # our crops are clamped; uint8 and PIL are clamped by their type
        return out.clamp(0, 1) if isinstance(out, Tensor) and out.is_floating_point() else out

    return Case(images, plan_of(images, size, box=box, interpolation=interpolation), reference)


def random_boxes(
    seed: int, n: int, size: int, kind: str, largest: int = 1200
) -> list[tuple[int, int, int, int, int, int]]:
    """Boxes larger ("down") or smaller ("up") than the crop, or of extreme shape ("thin")."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < n:
        height, width = (int(math.exp(rng.uniform(0, math.log(largest)))) for _ in range(2))
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        right = {
            "down": h > size and w > size,
            "up": h < size and w < size,
            "thin": max(h, w) > 20 * min(h, w),
        }[kind]
        if right:
            found.append(
                (height, width, int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
            )
    return found


HUGE = [(4000, 1500, 3, 0, 3990, 1411), (1, 4000, 0, 5, 1, 3900), (4000, 1, 1, 0, 3999, 1)]
ALL_RIGHT, ANGLES = torch.ones(12, dtype=torch.bool), torch.linspace(-30, 30, 12)


def operation_case(operation: str, call: Callable[[Picture, int], Picture], make: Any = None, **fields: Any) -> Case:
    """Twelve images, four photographs, four of noise, four grey, at the size of the crop: no resize."""
    rng = np.random.default_rng(1)
    kinds = [make] * 12 if make else [photograph, noise, grey_picture] * 4
    images = [kind(rng, SIDE, SIDE) for kind in kinds]
    return Case(images, plan_of(images, SIDE, (operation,), **fields), call)


def jitter_case(k: int, low: float, high: float, call: Callable[[Picture, float], Picture]) -> Case:
    values = torch.linspace(low, high, 12)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(12, 1)
    factors[:, k] = values
    return operation_case("jitter", lambda x, i: call(x, values[i].item()), jitter=ALL_RIGHT, factors=factors)


def blurred(x: Picture, sigma: float) -> Picture:
    if isinstance(x, Image.Image):
        return x.filter(ImageFilter.GaussianBlur(sigma))
    # torchvision mirrors the border, PIL and we repeat the edge: pad before, crop after
    return tvf.gaussian_blur(tvf.pad(x, [12] * 4, padding_mode="edge"), [25, 25], [sigma] * 2)[:, 12:-12, 12:-12]


def blur_case(make: Any) -> Case:
    sigma = torch.linspace(0.1, 2.0, 12)
    return operation_case("blur", lambda x, i: blurred(x, sigma[i].item()), make, blur=ALL_RIGHT, sigma=sigma)


def solarise_reference(x: Picture, i: int) -> Picture:
    return tvf.solarize(x, 128 / 255 if isinstance(x, Tensor) and x.is_floating_point() else 128)


def pipeline_case() -> Case:
    """SwAV's first crop of twelve photographs, everything as drawn."""
    rng = np.random.default_rng(2)
    images = [photograph(rng, int(rng.integers(100, 400)), int(rng.integers(100, 400))) for _ in range(12)]
    recipe = swav(SIDE, n_small=0, n_crops=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    plan = recipe.draw(torch.arange(12), 0, torch.tensor([image.shape[-2:] for image in images]), seed=0)
    group = plan.groups[0]

    def reference(x: Picture, i: int) -> Picture:
        x = tvf.resized_crop(x, *group.box[0, i].tolist(), [SIDE, SIDE], InterpolationMode.BILINEAR, antialias=True)
        x = tvf.horizontal_flip(x) if group.flip[0, i] else x
        b, c, s, h = group.factors[0, i].tolist()
        steps = [
            lambda y: tvf.adjust_brightness(y, b),
            lambda y: tvf.adjust_contrast(y, c),
            lambda y: tvf.adjust_saturation(y, s),
            lambda y: tvf.adjust_hue(y, h),
        ]
        for k in group.jitter_order[0, i].tolist() if group.jitter[0, i] else []:
            x = steps[k](x)
        x = tvf.rgb_to_grayscale(x, 3) if group.grey[0, i] else x
        return blurred(x, group.sigma[0, i].item()) if group.blur[0, i] else x

    return Case(images, plan, reference)


CASES: dict[str, Callable[[], Case]] = {}
for mode in MODES:
    tiny = [(1, 1, 0, 0, 1, 1)]
    CASES |= {
        f"{mode}, smaller": partial(resize_case, mode, random_boxes(0, 16, 96, "down"), 96, photograph),
        f"{mode}, smaller, noise": partial(resize_case, mode, random_boxes(1, 8, 64, "down"), 64, noise),
        f"{mode}, larger": partial(resize_case, mode, tiny + random_boxes(2, 15, 96, "up"), 96, photograph),
        f"{mode}, larger, noise": partial(resize_case, mode, random_boxes(3, 8, 96, "up"), 96, noise),
        f"{mode}, thin": partial(resize_case, mode, random_boxes(4, 8, 48, "thin"), 48, noise),
        f"{mode}, up to 4,000 px": partial(resize_case, mode, HUGE, 64, noise),
    }
CASES |= {
    "flip": lambda: operation_case("flip", lambda x, i: tvf.horizontal_flip(x), flip=ALL_RIGHT),
    "rotation": lambda: operation_case("rotation", lambda x, i: tvf.rotate(x, ANGLES[i].item()), angle=ANGLES),
    "brightness": lambda: jitter_case(0, 0.2, 1.8, tvf.adjust_brightness),
    "contrast": lambda: jitter_case(1, 0.2, 1.8, tvf.adjust_contrast),
    "saturation": lambda: jitter_case(2, 0.2, 1.8, tvf.adjust_saturation),
    "hue": lambda: jitter_case(3, -0.5, 0.5, tvf.adjust_hue),
    "grey": lambda: operation_case("grey", lambda x, i: tvf.rgb_to_grayscale(x, 3), grey=ALL_RIGHT),
    "blur": lambda: blur_case(None),
    "blur of photographs": lambda: blur_case(photograph),
    "solarise": lambda: operation_case("solarise", solarise_reference, solarise=ALL_RIGHT),
    "swav, whole": pipeline_case,
}


@cache
def case(name: str) -> Case:
    return CASES[name]()


def as_float(x: Tensor) -> Tensor:
    return x.float() / 255


def as_pil(x: Tensor) -> Image.Image:
    return Image.fromarray(x.permute(1, 2, 0).contiguous().numpy())


SIDES: dict[str, Callable[[Tensor], Picture]] = {"float": as_float, "uint8": lambda x: x, "PIL": as_pil}


@cache
def references(name: str, side: str) -> list[Tensor]:
    """The results of torchvision or PIL for each image, (3, S, S) in steps of 1/255."""
    found = []
    for i, image in enumerate(case(name).images):
        out = case(name).reference(SIDES[side](image), i)
        if isinstance(out, Image.Image):
            out = torch.from_numpy(np.array(out)).permute(2, 0, 1)
        found.append(255 * out if out.is_floating_point() else out.float())
    return found


@cache
def rendered(name: str, backend: str) -> list[Tensor]:
    return list(255 * render(case(name).images, case(name).plan, backend=backend)[0])


def errors(name: str, backend: str, side: str) -> tuple[float, float]:
    """Largest and mean absolute difference over all pixels, in steps of 1/255."""
    pairs = zip(rendered(name, backend), references(name, side), strict=True)
    differences = torch.cat([(mine - theirs).abs().flatten() for mine, theirs in pairs])
    return differences.max().item(), differences.mean().item()


# By the first word of a case: largest and mean difference allowed to torchvision's float path, its uint8 path, and PIL.
LIMITS = {
    "bilinear": ((2e-3, 1e-4), (1.01, 0.3), (1.01, 0.3)),
    "bicubic": ((2e-3, 1e-4), (25, 0.35), (25, 0.35)),  # they round and clamp to 8 bits between rows and columns
    "flip": ((1e-4, 1e-5),) * 3,
    "rotation": ((1e-4, 1e-5), (1e-4, 1e-5), (255, 0.05)),  # PIL takes the other neighbour for a few pixels
    "brightness": ((1e-3, 1e-4), (1.01, 0.5), (1.01, 0.5)),
    "contrast": ((1e-3, 1e-4), (2, 0.6), (2, 0.6)),
    "saturation": ((1e-3, 1e-4), (2, 0.6), (2, 0.6)),
    "hue": ((1e-3, 1e-4), (1.01, 0.1), (16, 0.7)),  # PIL's hue has 256 steps
    "grey": ((1e-3, 1e-4), (1.01, 0.7), (0.6, 0.2)),
    "blur": ((0.01, 1e-3), (0.51, 0.26), (40, 2)),  # PIL's three box blurs differ from a Gaussian at small sigmas
    "solarise": ((1e-4, 1e-5),) * 3,
    "swav": ((0.05, 2e-3), (10, 1.5), (15, 1.5)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "4,000 px" in name else []) for name in CASES]
)
def test_a_backend_is_torchvisions_float_path(name: str, backend: str) -> None:
    largest, mean = errors(name, backend, "float")
    limit = LIMITS[name.split()[0].strip(",")][0]
    assert largest <= limit[0], f"largest {largest:.2g} steps"
    assert mean <= limit[1], f"mean {mean:.2g} steps"


@pytest.mark.parametrize("side", ["uint8", "PIL"])
@pytest.mark.parametrize("name", CASES)
def test_eight_bit_pipelines_are_as_near_as_stated(name: str, side: str) -> None:
    largest, mean = errors(name, "cpu", side)
    limit = LIMITS[name.split()[0].strip(",")][1 if side == "uint8" else 2]
    assert largest <= limit[0], f"largest {largest:.2g} steps"
    assert mean <= limit[1], f"mean {mean:.2g} steps"


def main() -> None:
    print(
        "| operation |", " | ".join([f"{b}: torchvision, float" for b in BACKENDS] + ["torchvision, uint8", "PIL"]), "|"
    )
    print("| --- " * (len(BACKENDS) + 3) + "|")
    for name in CASES:
        cells = [errors(name, backend, "float") for backend in BACKENDS]
        cells += [errors(name, BACKENDS[0], side) for side in ("uint8", "PIL")]
        print("|", name, "|", " | ".join(f"{largest:.2g} / {mean:.2g}" for largest, mean in cells), "|")


if __name__ == "__main__":
    main()
