"""The torch backend against a naive loop over images and crops of torchvision's functions on float images."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from multicrop_aug import Blur, CropSpec, Jitter, PackedImages, Recipe, evaluation, odc, render, swav
from naive_render import naive
from torch import Tensor

OPERATIONS = {
    "flip": {"flip": 0.5},
    "rotation": {"rotation_degrees": 30.0},
    "brightness": {"jitter": Jitter(brightness=0.8)},
    "contrast": {"jitter": Jitter(contrast=0.8)},
    "saturation": {"jitter": Jitter(saturation=0.8)},
    "hue": {"jitter": Jitter(hue=0.5)},
    "jitter": {"jitter": Jitter(0.8, 0.8, 0.8, 0.2, p=0.8)},
    "grey": {"grey": 0.5},
    "blur": {"blur": Blur(0.7)},
    "solarise": {"solarise": 0.5},
}


def recipe_of(*names: str, size: int = 14, interpolation: str = "bilinear", order: tuple[str, ...] = ()) -> Recipe:
    fields = {name: value for operation in names for name, value in OPERATIONS[operation].items()}
    spec = CropSpec(size, 2, scale=(0.05, 1.0), ratio=(0.2, 5.0), interpolation=interpolation)
    return replace(Recipe((spec,), flip=0.0), **fields, **({"order": order} if order else {}))


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, max(1, height // 4), max(1, width // 4), generator=g)
    x = F.interpolate(coarse, (height, width), mode="bilinear") * 235 + torch.rand(3, height, width, generator=g) * 20
    return x[0].byte()


def assert_equal_but_for_thresholds(crops: list[Tensor], expected: list[Tensor], atol: float = 2e-5) -> None:
    """Rounding may move one pixel in 1,000 across a threshold or a pixel border."""
    for crop, other in zip(crops, expected, strict=True):
        assert crop.isfinite().all()
        assert ((crop - other).abs() < atol).float().mean() > 0.999


SIZES = [(60, 45), (33, 150), (1, 1), (1, 50), (64, 1), (90, 97)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_alone_equals_torchvision(operation: str, interpolation: str) -> None:
    images = [smooth(*size, seed=i) for i, size in enumerate(SIZES)]
    recipe = recipe_of(operation, interpolation=interpolation)
    plan = recipe.draw(torch.arange(6), 0, [list(size) for size in SIZES], seed=0)
    assert_equal_but_for_thresholds(render(images, plan, "torch"), naive(images, plan))


@settings(max_examples=15, deadline=None)
@given(
    st.permutations(["flip", "rotation", "jitter", "grey", "blur", "solarise"]),
    st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=3),
    st.integers(1, 40),
    st.sampled_from(["bilinear", "bicubic"]),
    st.integers(0, 99),
)
def test_every_order_and_size_equals_torchvision(
    order: list[str], sizes: list[tuple[int, int]], size: int, interpolation: str, seed: int
) -> None:
    images = [smooth(*s, seed=i) for i, s in enumerate(sizes)]
    recipe = recipe_of(*order, size=size, interpolation=interpolation, order=tuple(order))
    recipe = replace(recipe, solarise_threshold=0.0)  # else a later blur would spread a rounding at the threshold
    plan = recipe.draw(torch.arange(len(sizes)), 0, [list(s) for s in sizes], seed=seed)
    for crop, other in zip(render(images, plan, "torch"), naive(images, plan), strict=True):
        assert ((crop - other).abs() < 1e-4).float().mean() > 0.99


def test_great_reductions_and_enlargements_equal_torchvision() -> None:
    images = [smooth(900, 1200), smooth(3, 700), smooth(4, 5)]
    recipe = recipe_of("jitter", size=20)
    plan = recipe.draw(torch.arange(3), 0, [list(i.shape[-2:]) for i in images], seed=3)
    assert_equal_but_for_thresholds(render(images, plan, "torch"), naive(images, plan))


def test_grey_input_stays_grey() -> None:
    image = smooth(30, 30)[:1].expand(3, -1, -1)
    plan = replace(recipe_of("jitter", "blur"), mean=(0, 0, 0), std=(1, 1, 1)).draw(torch.arange(1), 0, (30, 30), 0)
    for crop in render([image], plan, "torch"):
        torch.testing.assert_close(crop[:, 0], crop[:, 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(crop[:, 0], crop[:, 2], atol=1e-5, rtol=0)


def test_evaluation_equals_torchvision() -> None:
    images = [smooth(40, 61), smooth(300, 130), smooth(37, 37)]
    plan = evaluation(32).draw(torch.arange(3), 0, [list(i.shape[-2:]) for i in images], seed=0)
    assert_equal_but_for_thresholds(render(images, plan, "torch"), naive(images, plan))


def test_a_blur_wider_than_the_crop_equals_torchvision() -> None:
    images = [smooth(30, 30)]
    recipe = replace(recipe_of(size=6), blur=Blur(1.0, (4.0, 6.0)))
    plan = recipe.draw(torch.arange(1), 0, (30, 30), seed=0)
    assert_equal_but_for_thresholds(render(images, plan, "torch"), naive(images, plan))


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.stack([smooth(30, 36, seed=i) for i in range(7)])
    plan = swav(12, small_size=6, n_small=2).draw(torch.arange(7), 0, (30, 36), seed=0)
    whole = render(images, plan, "torch")
    monkeypatch.setattr("multicrop_aug._torch._BLOCK", 1)
    for crop, expected in zip(render(images, plan, "torch"), whole, strict=True):
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_other_dtypes_and_layouts_round_once(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    images = torch.stack([smooth(20, 20, seed=i) for i in range(4)])
    plan = odc(8, n_crops=2).draw(torch.arange(4), 0, (20, 20), seed=0)
    for crop, expected in zip(
        render(images, plan, "torch", dtype=dtype, memory_format=memory_format),
        render(images, plan, "torch"),
        strict=True,
    ):
        assert crop.is_contiguous(memory_format=memory_format)
        assert torch.equal(crop, expected.to(dtype))


def test_an_empty_batch_gives_empty_crops() -> None:
    plan = odc(8).draw(torch.arange(0), 0, (4, 4), seed=0)
    for images in (torch.empty(0, 3, 4, 4, dtype=torch.uint8), [], PackedImages.pack([])):
        assert render(images, plan, "torch")[0].shape == (0, 3, 8, 8)


def test_boxes_and_rows_that_do_not_fit_give_nan() -> None:
    from multicrop_aug._torch import render_torch

    images = torch.stack([smooth(20, 20, seed=i) for i in range(4)])
    rows = torch.tensor([0, 4, -1, 1, 2])
    plan = odc(8, flip=0.0).draw(rows, 0, (20, 20), seed=0)
    plan.groups[0].box[0, 4] = torch.tensor([0, 0, 21, 5])
    for source in (images, PackedImages.pack(list(images))):
        (crops,) = render_torch(source, plan, rows, torch.float32, torch.contiguous_format)
        assert crops.isnan().all((1, 2, 3)).tolist() == [False, True, True, False, True]
        assert not crops[[0, 3]].isnan().any()
