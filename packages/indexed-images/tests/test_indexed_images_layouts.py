"""Masks and label maps of exported scenes, read as tools for COCO, VOC2012 and Cityscapes read them."""

import json

import numpy as np
import pytest
from indexed_images import SHAPES_CLASS_NAMES, draw_scenes, export_shapes
from indexed_images._export_cityscapes import CITYSCAPES_LABELS
from PIL import Image
from torchvision.datasets import Cityscapes, VOCDetection, VOCSegmentation

N = {"train": 21, "val": 9}


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module", params=["train", "val"])
def split(request):
    return request.param


@pytest.fixture(scope="module")
def scenes(split):
    return draw_scenes(2, split, range(N[split]), 64)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    def write(layout):
        folder = tmp_path_factory.mktemp(layout)
        spec = export_shapes(folder, layout, n_train=N["train"], n_val=N["val"], seed=2, size=64)
        assert spec == (f"voc07:{folder}" if layout == "voc" else str(folder))
        return folder

    return {layout: write(layout) for layout in ("voc", "coco", "cityscapes")}


def _inside(polygon, height, width):
    """Fill a polygon by the even-odd rule, evaluated at the centre of each pixel."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), dtype=bool)
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        crossed = (y1 > y) != (y2 > y)
        inside ^= crossed & (x < (x2 - x1) * (y - y1) / (y2 - y1 or 1) + x1)
    return inside


def _decoded(segmentation, height, width):
    if isinstance(segmentation, list):
        return np.any([_inside(polygon, height, width) for polygon in segmentation], axis=0)
    assert segmentation["size"] == [height, width]
    pixels, value = [], False
    for count in segmentation["counts"]:
        pixels += [value] * count
        value = not value
    return np.array(pixels).reshape(width, height).T


def _around(taken):
    """Find free pixels with a taken one among their eight neighbours."""
    height, width = taken.shape
    found = np.zeros_like(taken)
    for y in range(height):
        for x in range(width):
            found[y, x] = not taken[y, x] and taken[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
    return found


def test_coco_annotations_are_the_drawn_objects(world, split, scenes):
    text = json.loads((world["coco"] / f"annotations/instances_{split}2017.json").read_text())
    assert set(text) == {"info", "licenses", "images", "annotations", "categories"}
    categories = {item["id"]: item["name"] for item in text["categories"]}
    assert tuple(categories.values()) == SHAPES_CLASS_NAMES
    assert list(categories) == sorted(categories)
    assert max(categories) > len(categories)  # with gaps
    assert len({item["id"] for item in text["annotations"]}) == len(text["annotations"])
    assert {item["license"] for item in text["images"]} <= {item["id"] for item in text["licenses"]}
    kinds = set()
    for scene, image in zip(scenes, text["images"], strict=True):
        with Image.open(world["coco"] / f"{split}2017" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        objects = [item for item in text["annotations"] if item["image_id"] == image["id"]]
        for label, box, mask, item in zip(scene.labels, scene.boxes, scene.masks.numpy(), objects, strict=True):
            x1, y1, x2, y2 = box.tolist()
            assert item["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert categories[item["category_id"]] == SHAPES_CLASS_NAMES[label]
            assert item["area"] == mask.sum()
            assert item["iscrowd"] == 0
            # Polygons run along pixel borders, so they are as exact as run lengths.
            assert np.array_equal(_decoded(item["segmentation"], image["height"], image["width"]), mask)
            kinds.add(type(item["segmentation"]))
    assert kinds == {list, dict}


def test_coco_splits_share_no_id(world):
    found = {s: json.loads((world["coco"] / f"annotations/instances_{s}2017.json").read_text()) for s in N}
    train, val = ({image["id"] for image in found[s]["images"]} for s in N)
    assert not train & val
    assert found["train"]["categories"] == found["val"]["categories"]


def test_voc2012_lists(world):
    def listed(name):
        return (world["voc"] / f"VOC2012/ImageSets/{name}.txt").read_text().split()

    train, aug, val = (listed(f"Segmentation/{name}") for name in ("train", "aug", "val"))
    assert (len(train), len(aug), len(val)) == (11, 10, 9)
    assert listed("Segmentation/trainaug") == train + aug == listed("Main/train")
    assert listed("Main/val") == val
    assert listed("Main/trainval") == train + aug + val
    assert len(set(train + aug + val)) == 30
    for folder, ids in (("SegmentationClass", train + val), ("SegmentationClassAug", train + aug)):
        assert {f.stem for f in (world["voc"] / "VOC2012" / folder).iterdir()} == set(ids)


def test_voc2012_masks(world, split):
    folder = world["voc"] / "VOC2012"
    first = 1 if split == "train" else N["train"] + 1
    scenes = draw_scenes(2, split, range(N[split], 2 * N[split]), 64)  # they follow those of VOC2007
    for number, scene in enumerate(scenes, first):
        files = [*folder.glob(f"SegmentationClass*/2012_{number:06}.png")]
        masks = scene.masks.numpy()
        expected = np.where(_around(masks.any(axis=0)), 255, 0)
        for label, mask in zip(scene.labels.tolist(), masks, strict=True):
            expected[mask] = label + 1
        for file in files:
            with Image.open(file) as image:
                assert image.mode == "P"
                assert np.array_equal(np.array(image), expected)
                palette = np.array(image.getpalette()).reshape(-1, 3)
        assert files
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 12: (64, 0, 128), 20: (0, 64, 128)}
    known |= {8: (64, 0, 0), 255: (224, 224, 192)}  # as published with VOC
    assert all(tuple(palette[label]) == colour for label, colour in known.items())


def test_cityscapes_labels(world, split, scenes):
    truth = sorted((world["cityscapes"] / "gtFine" / split).rglob("*_labelIds.png"))
    found = {file.name.removesuffix("_gtFine_labelIds.png"): file for file in truth}
    cities = ("discheim", "ringstadt", "kreuzau") if split == "train" else ("dreieck",)
    assert len(found) == len(scenes)
    train_ids = [train_id for _, train_id in CITYSCAPES_LABELS]
    with_instances = 0
    for number, scene in enumerate(scenes):
        city = cities[number % len(cities)]
        stem = f"{city}_{number // len(cities):06}_000019"
        file = found[stem]
        drawn = world["cityscapes"] / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
        assert np.array_equal(pixels_of(drawn), scene.image.permute(1, 2, 0).numpy())
        labels, trained, instances = (
            pixels_of(str(file).replace("labelIds", kind)) for kind in ("labelIds", "labelTrainIds", "instanceIds")
        )
        masks = scene.masks.numpy()
        void = _around(masks.any(axis=0))
        road = ~void & ~masks.any(axis=0)
        assert (labels[void] == 0).all()
        assert (trained[void] == 255).all()
        assert (labels[road] == 7).all()
        assert (trained[road] == 0).all()
        seen: dict[int, int] = {}
        for label, mask in zip(scene.labels.tolist(), masks, strict=True):
            assert (trained[mask] == label + 1).all()
            assert len(set(instances[mask].tolist())) == 1
            number_of = instances[mask][0]
            if labels[mask][0] < 24:
                assert number_of == labels[mask][0]
            else:
                assert divmod(int(number_of), 1000) == (labels[mask][0], seen.get(label, 0))
                seen[label] = seen.get(label, 0) + 1
                with_instances += 1
        assert np.array_equal(np.array(train_ids)[labels], trained)
        assert np.array_equal(np.where(instances < 1000, instances, instances // 1000), labels)
    assert with_instances
    assert instances.dtype == np.uint16


def test_cityscapes_polygons_paint_the_labels(world, split):
    numbers = {name: number for number, (name, _) in enumerate(CITYSCAPES_LABELS)}
    for file in (world["cityscapes"] / "gtFine" / split).rglob("*_polygons.json"):
        text = json.loads(file.read_text())
        painted = np.zeros((text["imgHeight"], text["imgWidth"]), dtype=np.uint8)
        for item in text["objects"]:
            flat = [value for point in item["polygon"] for value in point]
            painted[_inside(flat, *painted.shape)] = numbers[item["label"]]
        labels = pixels_of(str(file).replace("polygons.json", "labelIds.png"))
        assert np.array_equal(painted[labels != 0], labels[labels != 0])


def test_cityscapes_table():
    by_id = dict(enumerate(CITYSCAPES_LABELS))
    assert len(by_id) == 34
    assert by_id[7] == ("road", 0)
    assert by_id[24] == ("person", 11)
    assert by_id[33] == ("bicycle", 18)
    assert [train_id for _, train_id in CITYSCAPES_LABELS if train_id != 255] == list(range(19))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision leaves its files open
def test_torchvision_reads_them(world, split, scenes, tmp_path):
    """torchvision's readers open the layouts; they expect a devkit to be called VOCdevkit."""
    (tmp_path / "VOCdevkit").symlink_to(world["voc"])
    segmentation = VOCSegmentation(tmp_path, "2012", split)
    assert len(segmentation) == (11 if split == "train" else 9)
    detection = VOCDetection(tmp_path, "2007", "trainval" if split == "train" else "test")
    assert len(detection) == N[split]
    first = detection[0][1]["annotation"]
    assert [item["name"].replace("-", " ") for item in first["object"]] == [
        SHAPES_CLASS_NAMES[label] for label in scenes[0].labels
    ]
    cities = Cityscapes(world["cityscapes"], split, target_type=["instance", "semantic", "polygon"])
    assert len(cities) == N[split]
    _, (instances, labels, polygons) = cities[0]
    assert instances.size == labels.size == (polygons["imgWidth"], polygons["imgHeight"])
    known = {item.id: (item.name, item.train_id) for item in Cityscapes.classes if item.id >= 0}
    assert known == dict(enumerate(CITYSCAPES_LABELS))
    counted = {item.id for item in Cityscapes.classes if item.has_instances and item.id >= 0}
    assert counted == set(range(24, 34))
