"""The Triton kernel equals the torch backend; Triton's interpreter runs it on the CPU, in a process of its own."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from multicrop_aug import Blur, CropPlan, CropSpec, Jitter, PackedImages, Recipe, evaluation, render
from torch import Tensor

OPERATIONS: dict[str, dict[str, Any]] = {
    "flip": {"flip": 0.5},
    "rotation": {"rotation_degrees": 30.0},
    "jitter": {"jitter": Jitter(0.8, 0.8, 0.8, 0.2, p=0.8)},
    "grey": {"grey": 0.3},
    "blur": {"blur": Blur(0.6, (0.1, 0.5))},
    "solarise": {"solarise": 0.4},
}
SIZES = [[13, 20], [1, 1], [17, 2]]


def recipe_of(names: list[str], size: int, interpolation: str = "bilinear", **overrides: Any) -> Recipe:
    fields = {name: value for operation in names for name, value in OPERATIONS[operation].items()}
    spec = CropSpec(size, 1, scale=(0.05, 1.0), ratio=(0.2, 5.0), interpolation=interpolation)
    return Recipe((spec,), **({"flip": 0.0, "mean": (0, 0, 0), "std": (1, 1, 1)} | fields | overrides))


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)


def few_differ(crops: list[Tensor], expected: list[Tensor]) -> None:
    """Equal to 1e-5, except where rounding moves a pixel across a threshold or a pixel border."""
    for crop, other in zip(crops, expected, strict=True):
        assert crop.shape == other.shape
        differs = ~torch.isclose(crop, other, atol=1e-5, rtol=0, equal_nan=True)
        assert differs.float().mean() <= 0.003, (crop - other).abs().amax((1, 2, 3))


def small_cases() -> Iterator[tuple[str, Recipe]]:
    for name in OPERATIONS:
        yield name, recipe_of([name], 9)
    for seed in range(2):
        order = random.Random(seed).sample(list(OPERATIONS), len(OPERATIONS))
        # invert every pixel: else a later blur or mean would spread a rounding at the threshold
        yield (
            str(order),
            recipe_of(order, 7, ("bilinear", "bicubic")[seed % 2], order=tuple(order), solarise_threshold=0),
        )


def larger_cases() -> Iterator[tuple[str, Recipe]]:
    every = ["flip", "jitter", "grey", "solarise"]
    yield "several tiles", recipe_of(every, 37)
    yield "several tiles, turned, cubic", recipe_of([*every, "rotation"], 37, "bicubic")
    for seed in range(2, 15):
        order = random.Random(seed).sample(list(OPERATIONS), len(OPERATIONS))
        yield (
            str(order),
            recipe_of(order, 20, ("bilinear", "bicubic")[seed % 2], order=tuple(order), solarise_threshold=0),
        )
    yield "wide blur on a small crop", recipe_of([], 3, blur=Blur(1.0, (1.5, 2.0)))
    yield "evaluation", evaluation(24)


def check_recipes(cases: Iterator[tuple[str, Recipe]]) -> None:
    images = [noise(3, *size) for size in SIZES]
    for name, recipe in cases:
        print(name, flush=True)  # names the case that fails
        plan = recipe.draw(torch.arange(len(images)), 0, SIZES, seed=0)
        few_differ(render(images, plan, "triton"), render(images, plan, "torch"))


def check_inputs_and_outputs() -> None:
    from multicrop_aug._triton import render_triton

    resident = noise(2, 20, 8, 10, 3)[1, ::3, 2:, :-3].permute(0, 3, 1, 2)  # 7 images, cropped, channels last
    rows = torch.tensor([6, 0, 2, 2])
    recipe = replace(recipe_of(["flip", "jitter"], 5), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    plan = recipe.draw(rows, 0, (6, 7), seed=0)
    expected = render(resident[rows].contiguous(), plan, "torch")
    few_differ(render(resident, plan, "triton", rows=rows), expected)
    few_differ(render(resident[rows], plan, "triton"), expected)
    few_differ(render(PackedImages.pack(list(resident)), plan, "triton", rows=rows), expected)
    (crops,) = render(resident, plan, "triton", rows=rows, memory_format=torch.channels_last)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    few_differ([crops], expected)
    (half,) = render(resident, plan, "triton", rows=rows, dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert ((half - crops).abs() <= 2**-7 * crops.abs()).all()  # a GPU rounds, the interpreter truncates
    assert render(resident[:0], plan_of_none(recipe), "triton")[0].shape == (0, 3, 5, 5)

    rows = torch.tensor([0, 7, -1, 1, 2])  # rows and boxes that do not fit
    plan = recipe_of(["flip"], 4, blur=Blur(1.0, (0.1, 0.3))).draw(rows, 0, (6, 7), seed=0)
    plan.groups[0].box[0, 4] = torch.tensor([0, 0, 7, 5])
    for images in (resident, PackedImages.pack(list(resident))):
        (crops,) = render_triton(images, plan, rows, torch.float32, torch.contiguous_format)
        assert crops.isnan().all((1, 2, 3)).tolist() == [False, True, True, False, True]
        assert not crops[[0, 3]].isnan().any()


def plan_of_none(recipe: Recipe) -> CropPlan:
    return recipe.draw(torch.arange(0), 0, (6, 7), seed=0)


def interpreted(what: str) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}  # numpy's, in masked columns
    done = subprocess.run(
        [sys.executable, __file__, what], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]


@pytest.mark.slow
def test_operations_and_their_orders_equal_the_torch_backend() -> None:
    interpreted("small")


@pytest.mark.slow
def test_inputs_and_outputs_of_every_kind() -> None:
    interpreted("inputs")


@pytest.mark.slow
def test_larger_crops_equal_the_torch_backend() -> None:
    interpreted("larger")


def test_images_on_the_cpu_are_refused() -> None:
    pytest.importorskip("triton")
    plan = recipe_of([], 8).draw(torch.arange(1), 0, (8, 8), seed=0)
    with pytest.raises(ValueError, match="needs a GPU"):
        render(noise(1, 3, 8, 8), plan, "triton")


POINTERS = {
    "*u8": ("pixels", "flip", "jitter", "jitter_order", "grey", "blur", "solarise"),
    "*i64": ("places", "rows"),
    "*i32": ("box", "resized", "offset"),
    "*fp32": ("turn", "factors", "sigma", "scratch"),
    "*bf16": ("out",),
    "fp32": ("threshold", "mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b"),
}
SWAV = {"ORDER": 2 + 3 * 8, "N_BEFORE": 2, "ROTATION_AT": 6, "JITTER_AT": 0, "BLURRED": False}
BLURRED = {"ORDER": 0, "N_BEFORE": 6, "ROTATION_AT": 6, "JITTER_AT": 6, "BLURRED": True}
ODC = {"ORDER": 1 + 2 * 8 + 3 * 64, "N_BEFORE": 6, "ROTATION_AT": 0, "JITTER_AT": 1, "BLURRED": False}


@pytest.mark.parametrize(
    ("constants", "most_registers"),
    [
        pytest.param(BLURRED, 128, id="blur", marks=pytest.mark.slow),
        pytest.param(SWAV, 64, id="swav", marks=pytest.mark.slow),
        pytest.param(ODC, 64, id="odc", marks=pytest.mark.slow),
    ],
)
def test_the_kernel_compiles_for_a_gpu_that_need_not_be_here(constants: dict[str, Any], most_registers: int) -> None:
    """The interpreter accepts code that the compiler refuses. Prints the compiler's resource report."""
    triton = pytest.importorskip("triton", minversion="3.3")
    from multicrop_aug._triton import tile_of
    from multicrop_aug._triton_kernel import render_crops
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = tile_of(224, blurred=constants["BLURRED"])
    warps = tile.pop("num_warps")
    constants = {"STRIDE_C": 65536, "SIZE": 224, "CUBIC": False, "PACKED": False, "INDEXED": True, **constants, **tile}
    types = {name: kind for kind, names in POINTERS.items() for name in names} | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in render_crops.arg_names}
    source = ASTSource(fn=render_crops, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert "ptx" in compiled.asm
    assert compiled.metadata.shared <= 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "inputs":
        check_inputs_and_outputs()
    else:
        check_recipes(small_cases() if sys.argv[1] == "small" else larger_cases())
