"""detect with torchvision: images, masks and boxes of COCO's layout, and the scores of what is found."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detect.torchvision_data import CocoImages, average_precision, decode, entries, flip, is_inside
from indexed_images import export_shapes
from torch import Tensor


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "drawn"
    export_shapes(folder, "coco", n_train=8, n_val=4, size=64)
    return folder


def test_the_mask_of_an_object_survives_the_flip(coco: Path) -> None:
    images = CocoImages(coco, "train")
    for index in range(len(images)):
        image, target = images[index, index]
        flipped, changed = flip(image, target)
        for k, (x1, y1, x2, y2) in enumerate(changed["boxes"].int().tolist()):
            rows, columns = changed["masks"][k].nonzero().T
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
        before, after = target["masks"].bool(), changed["masks"].bool()
        for k in range(len(before)):  # the same pixels of the image, in mirrored order
            assert torch.equal(image[:, before[k]].sort().values, flipped[:, after[k]].sort().values)
        again = flip(flipped, changed)[1]
        assert all(torch.equal(again[name], target[name]) for name in target)


def test_training_images_are_flipped_by_place_in_the_stream(coco: Path) -> None:
    images = CocoImages(coco, "train", seed=0)
    seen = [images[place, 0][1]["boxes"][0, 0].item() for place in range(40)]
    assert len(set(seen)) == 2
    assert 10 < seen.count(seen[0]) < 30
    assert seen == [images[place, 0][1]["boxes"][0, 0].item() for place in range(40)]


def test_objects_without_a_pixel_in_the_image_are_left_out() -> None:
    assert is_inside([0, 0, 1, 1], 10, 8)
    assert is_inside([-4, 7.5, 5, 3], 10, 8)
    assert not is_inside([0, 0, 0.9, 5], 10, 8)
    assert not is_inside([10, 0, 3, 3], 10, 8)
    assert not is_inside([0, -3, 3, 3], 10, 8)


def test_polygons_and_run_lengths_give_one_mask() -> None:
    square = decode([[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]], 4, 5)
    runs = decode({"size": [4, 5], "counts": [5, 2, 2, 2, 2, 2, 5]}, 4, 5)
    assert square.sum() == 6
    assert np.array_equal(square, runs)


def test_crowds_are_not_trained_on_and_not_scored(coco: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").symlink_to(coco / f"{split}2017")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.loads((coco / "annotations" / f"instances_{split}2017.json").read_text())
        first = content["images"][0]["id"]
        for one in content["annotations"]:
            one["iscrowd"] = int(one["image_id"] == first)
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    train = CocoImages(tmp_path, "train", seed=0)
    assert len(train) == 7  # the image that holds crowds alone is not trained on
    val, plain = CocoImages(tmp_path, "val"), CocoImages(coco, "val")
    assert len(val[0, 0][1]["boxes"]) == 0
    found = [one for k in range(4) for one in entries(plain[k, k][1], perfect(plain, k), list(plain.labels))]
    scored = average_precision(tmp_path, found, tmp_path)
    assert list(scored.values()) == pytest.approx([100.0] * 6)  # what is found in the crowds counts neither way


def perfect(images: CocoImages, index: int) -> dict[str, Tensor]:
    truth = images[index, index][1]
    return truth | {"scores": torch.ones(len(truth["labels"])), "masks": truth["masks"][:, None].float()}


def test_boxes_in_scores_are_corner_and_size(coco: Path) -> None:
    images = CocoImages(coco, "val")
    content = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    truth = [one for one in content["annotations"] if one["image_id"] == images.images[1]["id"]]
    made = entries(images[1, 1][1], perfect(images, 1), list(images.labels))
    assert [one["bbox"] for one in made] == [one["bbox"] for one in truth]
    assert [one["category_id"] for one in made] == [one["category_id"] for one in truth]
