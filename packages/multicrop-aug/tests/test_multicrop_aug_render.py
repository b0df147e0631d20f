"""Whole pipelines on the CPU backend against a naive loop over images and crops of torchvision's functions."""

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from multicrop_aug import CropSpec, PackedImages, Recipe, evaluation, odc, render, swav
from naive_render import naive
from PIL import Image
from torchvision.transforms import v2

ORDER_MM = ("jitter", "grey", "blur", "flip")


def assert_close_but_for_rare_pixels(crops: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Differences above 1e-4 are rare: rounding can move a pixel across a threshold or a pixel border."""
    for crop, other in zip(crops, expected, strict=True):
        assert crop.shape == other.shape
        assert ((crop - other).abs() < 1e-4).float().mean() > 0.999


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
def test_uniform_images_equal_torchvisions_float_pipeline(name: str) -> None:
    images = photos(12, 30, 36)
    plan = recipes()[name].draw(torch.arange(12), 0, (30, 36), seed=1)
    crops = render(images, plan)
    assert all(crop.dtype == torch.float32 for crop in crops)
    assert_close_but_for_rare_pixels(crops, naive(list(images), plan))


@pytest.mark.parametrize("name", recipes())
def test_images_of_many_sizes_equal_torchvisions_float_pipeline(name: str) -> None:
    images = [photos(1, h, w)[0] for h, w in [(60, 45), (33, 200), (1, 1), (1, 50), (128, 128)]]
    sizes = torch.tensor([i.shape[-2:] for i in images])
    plan = recipes()[name].draw(torch.arange(5), 0, sizes, seed=1)
    assert_close_but_for_rare_pixels(render(images, plan), naive(images, plan))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("seed", range(6))
def test_any_size_and_ratio_is_cut_as_torchvision_cuts_it(interpolation: str, seed: int) -> None:
    """Sides from 1 to 4,000 pixels, boxes of a thousandth of the image or all of it, 1:9 to 9:1, up- and downscaled."""
    draw = random.Random(seed)
    height, width = (round(4000 ** draw.random()) for _ in range(2))
    size = draw.choice([1, 7, 32, 96])
    image = photos(1, height, width, seed)
    spec = CropSpec(size, 3, scale=(0.001, 1.0), ratio=(1 / 9, 9.0), interpolation=interpolation)
    recipe = Recipe((spec,), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    plan = recipe.draw(torch.tensor([seed]), 0, (height, width), seed=0)
    for crop, expected in zip(render(image, plan), naive(list(image), plan), strict=True):
        torch.testing.assert_close(crop, expected, atol=2e-6, rtol=0)


def test_grey_images_equal_torchvision() -> None:
    grey = photos(6, 40, 30)[:, :1].expand(-1, 3, -1, -1)  # green and blue share red's memory
    plan = recipes()["swav"].draw(torch.arange(6), 0, (40, 30), seed=0)
    assert_close_but_for_rare_pixels(render(grey, plan), naive(list(grey), plan))


def test_memory_layouts_give_equal_crops() -> None:
    images = photos(5, 21, 30)
    plan = recipes()["swav"].draw(torch.arange(5), 0, (21, 30), seed=0)
    expected = render(images, plan)
    frame = torch.zeros(5, 3, 40, 50, dtype=torch.uint8)
    frame[:, :, 3:24, 7:37] = images
    for given in (
        images.to(memory_format=torch.channels_last),
        frame[:, :, 3:24, 7:37],
        frame.to(memory_format=torch.channels_last)[:, :, 3:24, 7:37],
        images.mT.contiguous().mT,  # neither planes nor channels last, so it is copied
        list(images),
        [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images],
        PackedImages.pack(list(images)),
    ):
        for crop, other in zip(render(given, plan), expected, strict=True):
            torch.testing.assert_close(crop, other, atol=1e-6, rtol=0)


def test_rows_pick_images_of_a_resident_set() -> None:
    resident, rows = photos(20, 16, 18), torch.tensor([7, 0, 19, 7])
    plan = recipes()["swav"].draw(rows, 0, (16, 18), seed=0)
    expected = render(resident[rows], plan)
    for given in (
        resident,
        resident.to(memory_format=torch.channels_last),
        list(resident),
        PackedImages.pack(resident),
    ):
        for crop, other in zip(render(given, plan, rows=rows), expected, strict=True):
            torch.testing.assert_close(crop, other, atol=1e-6, rtol=0)


def test_encoded_files_are_decoded_and_cut() -> None:
    files = []
    for image, kind in zip(photos(3, 30, 40), ("JPEG", "PNG", "JPEG"), strict=True):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, kind)
        files.append(file.getvalue())
    decoded = [torch.from_numpy(np.array(Image.open(io.BytesIO(file)))).permute(2, 0, 1) for file in files]
    plan = recipes()["swav"].draw(torch.arange(3), 0, (30, 40), seed=0)
    for crop, expected in zip(render(files, plan), render(decoded, plan), strict=True):
        assert torch.equal(crop, expected)


def test_large_uniform_batch_equals_a_list() -> None:
    images = photos(3, 100, 120)
    plan = odc(48).draw(torch.arange(3), 0, (100, 120), seed=0)
    assert torch.equal(render(images, plan)[0], render(list(images), plan)[0])


@pytest.mark.parametrize("as_list", [False, True])
def test_threads_change_nothing(as_list: bool) -> None:
    images = photos(40, 20, 20)
    plan = recipes()["swav"].draw(torch.arange(40), 0, (20, 20), seed=0)
    given = list(images) if as_list else images
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = render(given, plan)
        torch.set_num_threads(3)
        together = render(given, plan)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtype_and_memory_format_are_the_last_step(dtype: torch.dtype) -> None:
    images = photos(4, 20, 20)
    plan = odc(16, n_crops=2).draw(torch.arange(4), 0, (20, 20), seed=0)
    crops = render(images, plan, dtype=dtype, memory_format=torch.channels_last)
    for crop, full in zip(crops, render(images, plan), strict=True):
        assert crop.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(crop, full.to(dtype))


@pytest.mark.parametrize(
    "box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 6, 5, 5), (0, 0, 11, 5), (2**31 - 1, 0, 2**31 - 1, 5)]
)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_box_outside_of_its_image_is_refused_not_read(box: tuple[int, ...], n_threads: int) -> None:
    images = photos(200, 10, 10)
    plan = odc(8).draw(torch.arange(200), 0, (10, 10), seed=0)
    plan.groups[0].box[0, 150] = torch.tensor(box)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        with pytest.raises(ValueError, match="outside"):
            render(images, plan)
    finally:
        torch.set_num_threads(before)


def test_a_window_outside_of_the_resized_box_is_refused() -> None:
    plan = odc(8).draw(torch.arange(2), 0, (10, 10), seed=0)
    plan.groups[0].offset[0, 1, 0] = 1
    with pytest.raises(ValueError, match="window"):
        render(photos(2, 10, 10), plan)


def test_a_crop_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(9, 32, 32)
    recipe = recipes()["everything, blur first, flip last"]
    whole = render(images, recipe.draw(torch.arange(9), 0, (32, 32), seed=0))
    alone = render(images[4:5], recipe.draw(torch.tensor([4]), 0, (32, 32), seed=0))
    monkeypatch.setattr("multicrop_aug._cpu._CROPS_PER_CALL", 1)
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
    expected = TF.normalize(theirs(images / 255), list(recipe.mean), list(recipe.std))
    torch.testing.assert_close(render(images, plan)[0], expected, atol=1e-5, rtol=0)


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
        render(photos(1, 8, 8).to("meta"), plan, backend="cpu")


def test_numpy_images_sizes_and_rows_are_accepted() -> None:
    images, indices = photos(6, 30, 36), torch.arange(6)
    recipe = swav(24, small_size=10, n_small=1)
    plan = recipe.draw(indices, 0, (30, 36), seed=1)
    again = recipe.draw(indices.numpy(), 0, np.array([[30, 36]] * 6, np.int32), seed=1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plan.tensors(), again.tensors(), strict=True))
    array = images.numpy().copy()
    array.flags.writeable = False
    expected = render(images, plan)
    for given in (array, list(array), PackedImages.pack(list(array)), array[:, :, :, ::-1][:, :, :, ::-1]):
        for crop, other in zip(render(given, plan), expected, strict=True):
            assert torch.equal(crop, other)
    rows = np.array([3, 1])
    plan = recipe.draw(rows, 0, (30, 36), seed=1)
    for crop, other in zip(render(array, plan, rows=rows), render(images[[3, 1]], plan), strict=True):
        assert torch.equal(crop, other)
    with pytest.raises(ValueError, match="uint8 RGB"):
        render(array.astype(np.float32), recipe.draw(indices, 0, (30, 36), seed=1))
