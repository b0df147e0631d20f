"""Whole pipelines against a naive loop over images and crops, written with torchvision's functions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from multicrop_aug import CropPlan, Recipe, evaluation, odc, render, swav
from multicrop_aug._cpu import _MATRIX_MAX_SIDE
from torchvision.transforms import v2

STEP = 1 / 255
ORDER_MM = ("jitter", "grey", "blur", "flip")


def naive_photometric(x: torch.Tensor, plan: CropPlan, v: int, b: int) -> torch.Tensor:
    group = plan[v].groups[0].apply(lambda t: t[0, b])
    adjust = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
    for operation in plan.order:
        if operation == "flip" and group.flip:
            x = TF.hflip(x)
        elif operation == "rotation":
            x = TF.rotate(x, group.angle.item(), fill=[0.0])
        elif operation == "jitter" and group.jitter:
            for k in group.jitter_order.tolist():
                x = adjust[k](x, group.factors[k].item())
        elif operation == "grey" and group.grey:
            x = TF.rgb_to_grayscale(x, 3)
        elif operation == "blur" and group.blur:
            radius = int(4 * group.sigma + 0.5)
            padded = F.pad(x, (10,) * 4, mode="replicate")
            x = TF.gaussian_blur(padded, [2 * radius + 1] * 2, [group.sigma.item()] * 2)[:, 10:-10, 10:-10]
        elif operation == "solarise" and group.solarise:
            x = TF.solarize(x, plan.solarise_threshold)
    return TF.normalize(x, list(plan.mean), list(plan.std))


def naive(images: list[torch.Tensor], plan: CropPlan, *, uint8_resize: bool) -> list[torch.Tensor]:
    crops = []
    for v in range(plan.n_crops):
        group, crop = plan[v].groups[0], []
        for b, image in enumerate(images):
            top, left, h, w = group.box[0, b].tolist()
            (rh, rw), (y, x) = group.resized[0, b].tolist(), group.offset[0, b].tolist()
            image = image if uint8_resize else image / 255
            resized = TF.resized_crop(image, top, left, h, w, [rh, rw], antialias=True)
            cut = resized[:, y : y + group.size, x : x + group.size]
            crop.append(naive_photometric(cut / 255 if uint8_resize else cut, plan, v, b))
        crops.append(torch.stack(crop))
    return crops


def photos(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, max(1, height // 4), max(1, width // 4), generator=g)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth * 235 + torch.rand(n, 3, height, width, generator=g) * 20).byte()


def recipes() -> dict[str, Recipe]:
    small_swav = swav(24, small_size=10, n_small=3)
    return {
        "odc": odc(32, n_crops=2),
        "swav": small_swav,
        "swav in MMSelfSup's order": replace(small_swav, order=ORDER_MM),
        "everything, blur first, flip last": replace(
            small_swav,
            rotation_degrees=20.0,
            solarise=0.5,
            order=("blur", "rotation", "solarise", "jitter", "grey", "flip"),
        ),
    }


@pytest.mark.parametrize("name", recipes())
def test_small_uniform_images_equal_torchvisions_float_pipeline(name: str) -> None:
    images = photos(12, 30, 36)
    plan = recipes()[name].draw(torch.arange(12), 0, (30, 36), seed=1)
    for crop, expected in zip(render(images, plan), naive(list(images), plan, uint8_resize=False), strict=True):
        assert crop.dtype == torch.float32
        # a threshold or a pixel border met from the other side by a rounding is the only larger difference there is
        assert ((crop - expected).abs() < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize("name", recipes())
def test_images_of_many_sizes_equal_torchvisions_uint8_pipeline(name: str) -> None:
    images = [photos(1, h, w)[0] for h, w in [(60, 45), (33, 200), (1, 1), (1, 50), (128, 128)]]
    sizes = torch.tensor([i.shape[-2:] for i in images])
    plan = recipes()[name].draw(torch.arange(5), 0, sizes, seed=1)
    for crop, expected in zip(render(images, plan), naive(images, plan, uint8_resize=True), strict=True):
        assert ((crop - expected).abs() < 1e-4).float().mean() > 0.999


def test_both_ways_of_cutting_agree_within_a_step() -> None:
    images = photos(16, 40, 48)
    plan = swav(32, small_size=12, std=(1.0, 1.0, 1.0)).draw(torch.arange(16), 0, (40, 48), seed=0)
    only_cut = replace(plan, order=())
    for fast, general in zip(render(images, only_cut), render(list(images), only_cut), strict=True):
        assert (fast - general).abs().max() <= STEP + 1e-6


def test_large_uniform_batch_equals_a_list() -> None:
    images = photos(3, 100, 120)
    plan = odc(48).draw(torch.arange(3), 0, (100, 120), seed=0)
    assert torch.equal(render(images, plan)[0], render(list(images), plan)[0])


def test_a_crop_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(9, 32, 32)
    recipe = recipes()["everything, blur first, flip last"]
    whole = render(images, recipe.draw(torch.arange(9), 0, (32, 32), seed=0))
    alone = render(images[4:5], recipe.draw(torch.tensor([4]), 0, (32, 32), seed=0))
    monkeypatch.setattr("multicrop_aug._cpu._BLOCK", 1)  # one crop at a time
    blocks = render(images, recipe.draw(torch.arange(9), 0, (32, 32), seed=0))
    for a, b, c in zip(whole, alone, blocks, strict=True):
        torch.testing.assert_close(a[4:5], b, atol=1e-5, rtol=0)
        torch.testing.assert_close(a, c, atol=1e-5, rtol=0)


def test_one_crop_of_a_plan_renders_alone() -> None:
    images = photos(4, 32, 32)
    plan = swav(16, small_size=8).draw(torch.arange(4), 0, (32, 32), seed=0)
    crops = render(images, plan)
    assert [c.shape[-1] for c in crops] == [16, 16] + [8] * 6
    for v, crop in enumerate(crops):
        torch.testing.assert_close(render(images, plan[v])[0], crop, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (40, 48), (47, 39), (61, 45), (37, 111), (300, 224)])
def test_evaluation_equals_resize_and_centre_crop(size: tuple[int, int]) -> None:
    images = photos(2, *size)
    theirs = v2.Compose([v2.Resize(37, antialias=True), v2.CenterCrop(32)])
    recipe = evaluation(32)
    assert recipe.specs[0].resize == 37
    plan = recipe.draw(torch.arange(2), 5, size, seed=8)
    for float_path, given in ((True, images), (False, list(images))):
        float_path &= max(size) <= _MATRIX_MAX_SIDE
        expected = theirs(images / 255) if float_path else theirs(images) / 255
        expected = TF.normalize(expected, list(recipe.mean), list(recipe.std))
        torch.testing.assert_close(render(given, plan)[0], expected, atol=2e-5, rtol=0)


def test_evaluation_at_the_images_own_size_only_normalises() -> None:
    images = photos(3, 32, 32)
    recipe = evaluation(32, resize=32)
    crops = render(images, recipe.draw(torch.arange(3), 0, (32, 32), seed=0))
    torch.testing.assert_close(crops[0], TF.normalize(images / 255, list(recipe.mean), list(recipe.std)))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_extreme_sizes_give_finite_crops(size: tuple[int, int]) -> None:
    plan = swav(24, small_size=8).draw(torch.arange(6), 0, size, seed=0)
    assert all(c.isfinite().all() for c in render(photos(6, *size), plan))
    assert all(c.isfinite().all() for c in render(list(photos(6, *size)), plan))


def test_empty_batch_gives_empty_crops() -> None:
    plan = odc(8).draw(torch.arange(0), 0, (4, 4), seed=0)
    assert render(torch.empty(0, 3, 4, 4, dtype=torch.uint8), plan)[0].shape == (0, 3, 8, 8)


def test_images_are_not_written_to() -> None:
    images = photos(4, 16, 16)
    before = images.clone()
    render(images, odc(16).draw(torch.arange(4), 0, (16, 16), seed=0))
    render(images, evaluation(16, resize=16).draw(torch.arange(4), 0, (16, 16), seed=0))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(2, 3, 8, 8), "uint8"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "RGB"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "list"),
        (torch.zeros(2, 3, 8, 9, dtype=torch.uint8), "sizes"),
        (torch.zeros(3, 3, 8, 8, dtype=torch.uint8), "sizes"),
        ([torch.zeros(8, 8, dtype=torch.uint8)] * 2, "RGB"),
    ],
)
def test_bad_images_are_named(images, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        render(images, odc(8).draw(torch.arange(2), 0, (8, 8), seed=0))


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="'tpu'"):
        render(photos(1, 8, 8), odc(8).draw(torch.arange(1), 0, (8, 8), seed=0), backend="tpu")


def test_cpu_backend_refuses_other_devices() -> None:
    plan = odc(8).draw(torch.arange(1), 0, (8, 8), seed=0)
    with pytest.raises(ValueError, match="the images"):
        render(photos(1, 8, 8).to("meta"), plan)
