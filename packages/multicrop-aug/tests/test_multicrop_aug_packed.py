"""Images of many sizes in one buffer, and rows of a resident set."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multicrop_aug import PackedImages, render, swav
from torch import Tensor
from torch.utils.data import DataLoader


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=g, dtype=torch.uint8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=6))
def test_what_was_packed_comes_out(sizes: list[tuple[int, int]]) -> None:
    images = [noise(h, w, i) for i, (h, w) in enumerate(sizes)]
    packed = PackedImages.pack(images)
    assert packed.sizes.tolist() == [list(size) for size in sizes]
    assert len(packed) == len(images)
    assert len(packed.pixels) == sum(3 * h * w for h, w in sizes)
    assert all(torch.equal(packed[i], image) for i, image in enumerate(images))


def test_memory_of_any_layout_is_packed_alike() -> None:
    image = noise(6, 4)
    views = [image, image.permute(1, 2, 0).contiguous().permute(2, 0, 1), noise(12, 9)[:, ::2, 1:5].copy_(image)]
    packed = PackedImages.pack(views)
    assert all(torch.equal(packed[i], image) for i in range(3))
    assert packed.pixels[:6].tolist() == [*image[:, 0, 0].tolist(), *image[:, 0, 1].tolist()]


def test_an_image_is_a_view_and_numbers_are_checked() -> None:
    packed = PackedImages.pack([noise(2, 3), noise(1, 1)])
    packed[1].zero_()
    assert packed.pixels[-3:].tolist() == [0, 0, 0]
    for wrong in (-1, 2):
        with pytest.raises(IndexError, match="image must be in"):
            packed[wrong]


def test_to_moves_all_but_the_sizes() -> None:
    packed = PackedImages.pack([noise(2, 3)]).to("meta", non_blocking=True)
    assert packed.device.type == packed.places.device.type == "meta"
    assert packed.sizes.tolist() == [[2, 3]]


def test_a_loader_can_collate_with_it() -> None:
    images = [noise(3 + i, 5) for i in range(5)]
    batches = list(DataLoader(images, batch_size=2, collate_fn=PackedImages.pack))  # type: ignore[arg-type]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(batches[1][1], images[3])


@pytest.mark.parametrize("wrong", [noise(2, 2).float(), noise(2, 2)[0], noise(2, 2)[:2]])
def test_anything_but_uint8_rgb_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        PackedImages.pack([noise(2, 2), wrong])


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_packed_listed_and_chosen_images_give_the_same_crops(backend: str) -> None:
    images = [noise(h, w, h) for h, w in [(9, 14), (30, 8), (1, 1), (12, 12)]]
    packed, rows = PackedImages.pack(images), torch.tensor([3, 0, 3, 1, 2])
    recipe = swav(12, small_size=6, n_small=2)
    plan = recipe.draw(rows, 0, packed.sizes[rows], seed=0)
    listed = render([images[i] for i in rows.tolist()], plan, backend)
    for source in (images, packed):
        for crop, expected in zip(render(source, plan, backend, rows=rows), listed, strict=True):
            torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_rows_of_a_resident_set_of_any_strides_need_no_copy(backend: str) -> None:
    whole = torch.randint(0, 256, (2, 20, 24, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resident = whole[1, ::3, 2:, :-3].permute(0, 3, 1, 2)  # every third image, cropped, channels last
    rows = torch.tensor([6, 0, 2, 2])
    plan = swav(12, small_size=6, n_small=2).draw(rows, 0, (22, 27), seed=0)
    for crop, expected in zip(
        render(resident, plan, backend, rows=rows), render(resident[rows].contiguous(), plan, backend), strict=True
    ):
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (torch.tensor([0, 1]), r"\(3,\) int64"),
        (torch.tensor([0, 1, 1], dtype=torch.int32), "int64"),
        (torch.tensor([0, 1, 5]), r"rows must be in \[0, 5\)"),
        (torch.tensor([0, -1, 2]), r"rows must be in \[0, 5\)"),
    ],
)
def test_wrong_rows_are_named(rows: Tensor, match: str) -> None:
    plan = swav(8, small_size=4).draw(torch.arange(3), 0, (8, 8), seed=0)
    with pytest.raises(ValueError, match=match):
        render(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), plan, rows=rows)


def test_rows_of_other_sizes_are_named() -> None:
    packed = PackedImages.pack([noise(8, 8), noise(8, 9)])
    plan = swav(8, small_size=4).draw(torch.arange(2), 0, (8, 8), seed=0)
    render(packed, plan, rows=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="other sizes"):
        render(packed, plan)
