"""Public functions of multicrop_aug and indexed_images on the device: where results are, dtypes, the CPU's values."""

from pathlib import Path
from typing import Any

import indexed_images
import multicrop_aug
import multicrop_aug._triton
import pytest
import torch
from multicrop_aug import CropPlan, PackedImages, Recipe, render
from pretend_cuda.device import Device, pretended
from pretend_cuda.parity import Cases, Put, on_cpu

pytestmark = pytest.mark.usefixtures("cuda")
crops, images = Cases(multicrop_aug), Cases(indexed_images)

B, H, W = 4, 20, 24
PIXELS = torch.randint(0, 256, (B, 3, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
READY = {  # by name, small
    "byol": multicrop_aug.byol(12),
    "deepcluster": multicrop_aug.deepcluster(12),
    "deepcluster_v2": multicrop_aug.deepcluster_v2(12, n_small=1, small_size=8),
    "dino": multicrop_aug.dino(12, n_small=2, small_size=8),
    "evaluation": multicrop_aug.evaluation(12),
    "moco_v3": multicrop_aug.moco_v3(12),
    "odc": multicrop_aug.odc(12),
    "simclr": multicrop_aug.simclr(12),
    "swav": multicrop_aug.swav(12, n_small=2, small_size=8),
}


def rendered(recipe: Recipe, put: Put, **options: Any) -> Any:
    plan = recipe.draw(torch.arange(B), 0, (H, W), seed=0)
    return render(put(PIXELS), plan, **options)


@crops.of(*READY, "Recipe.draw", "Recipe.setting", "render", "Jitter.ranges")
def recipes(put: Put) -> Any:
    """By the fastest backend of each side: the stand-in of the kernels on the device."""
    return [rendered(READY[name], put) for name in READY]


@crops.of("PackedImages.pack", "PackedImages.to", "PackedImages.pin_memory")
def packed(put: Put) -> Any:
    plan = READY["swav"].draw(torch.arange(B), 0, (H, W), seed=0)
    return render(put(PackedImages.pack(list(PIXELS)).pin_memory()), plan, dtype=torch.bfloat16)


@crops.of()
def of_a_resident_set(put: Put) -> Any:
    rows = torch.tensor([3, 1, 1])
    plan = READY["odc"].draw(rows, 0, (H, W), seed=0)
    return [render(put(PIXELS), plan, rows=where(rows)) for where in (lambda rows: rows, put)]


@crops.of("CropPlan.to", "CropPlan.state_dict", "CropPlan.from_state_dict", "CropPlan.tensors", "CropPlan.with_tensors")
@crops.of("CropGroup.apply", "CropGroup.tensors")
def plans(put: Put) -> Any:
    plan = put(READY["swav"].draw(torch.arange(B), 0, (H, W), seed=0))
    again = CropPlan.from_state_dict(plan.state_dict()).with_tensors(plan.tensors())
    groups = [group.tensors() for group in again[0].groups]
    return render(put(PIXELS), again), groups, [group.apply(torch.clone).tensors() for group in plan.groups]


@crops.of("MultiCrop", "collate", "draw_preview")
def of_one_image(put: Put) -> Any:
    transform = multicrop_aug.MultiCrop(READY["odc"])
    sheet = multicrop_aug.draw_preview(READY["odc"], PIXELS[0], n=1)
    return on_cpu(multicrop_aug.collate([transform(PIXELS[i], index=i) for i in range(2)])), sheet.size


@pytest.mark.parametrize("name", crops.calls)
def test_crops(name: str) -> None:
    crops.check(name)


def test_every_function_of_multicrop_aug_has_a_case() -> None:
    assert crops.missing() == []


@pytest.mark.parametrize("source", ["batch", "packed"])
def test_the_kernel_itself(source: str) -> None:
    """In Triton's interpreter, two images; everything that a recipe can draw."""
    recipe = multicrop_aug.swav(8, n_small=1, small_size=6)
    pixels = PIXELS[:2, :, :12, :12]
    plan = recipe.draw(torch.arange(2), 0, (12, 12), seed=3)
    expected = render(pixels, plan, "cpu")
    with pretended(stand_ins=False) as cuda:
        assert multicrop_aug._triton.render_triton.__module__ == "multicrop_aug._triton"  # no stand-in
        there = pixels.to("cuda") if source == "batch" else PackedImages.pack(list(pixels)).to("cuda")
        with cuda.watched() as log:
            got = render(there, plan, "triton")
        assert log.kernels == {"render_crops": 4}
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(cuda.peek(ours), theirs, rtol=0, atol=2e-3)


def test_crops_of_the_second_device() -> None:
    """A kernel starts on the current device: without a guard, the memory of another one is out of its reach."""
    plan = multicrop_aug.odc(4).draw(torch.arange(1), 0, (8, 8), seed=0)
    with pretended(stand_ins=False):
        (crop,) = render(PIXELS[:1, :, :8, :8].to("cuda:1"), plan, "triton")
        assert crop.device == torch.device("cuda:1")


def test_a_plan_crosses_in_one_copy_and_nothing_waits(cuda: Device) -> None:
    there, rows = PIXELS.to("cuda"), torch.arange(B).pin_memory()
    plan = READY["swav"].draw(torch.arange(B), 0, (H, W), seed=0)
    with cuda.watched() as log:
        render(there, plan, rows=rows)
    assert log.waits == {}, log.waits_by_line()
    assert all(copy.pinned for copy in log.copies), log.copies
    assert log.copies.total() <= 2, log.copies  # of the rows, and of the plan


# ---- indexed_images ----


@images.of(
    *("open_images", "open_train_and_test", "IndexedImages.resident", "IndexedImages.bytes", "IndexedImages.name"),
    "IndexedImages.fingerprint",
)
def resident(put: Put) -> Any:
    shapes = indexed_images.open_images("shapes:n=5")
    assert len(indexed_images.open_train_and_test("shapes:n=5").train) == 5
    return shapes.resident(put(torch.zeros(0)).device, size=16), shapes.bytes(0), shapes.name(3)


@images.of("draw_shapes", "draw_scenes", "export_shapes")
def drawn(put: Put) -> Any:
    return on_cpu(indexed_images.draw_shapes(0, "val", range(2), 16).images)  # of the CPU alone, and untouched by a GPU


@pytest.mark.parametrize("name", images.calls)
def test_images(name: str) -> None:
    images.check(name)


def test_every_function_of_indexed_images_has_a_case() -> None:
    assert images.missing() == []


def test_resident_images_are_copied_once(cuda: Device, tmp_path: Path) -> None:
    with cuda.watched() as log:
        indexed_images.open_images("shapes:n=5").resident("cuda", size=16)
    assert log.n_waits <= 1, log.waits_by_line()
