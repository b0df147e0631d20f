import hashlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from indexed_images import SHAPES_CLASS_NAMES, Scene, draw_scenes, draw_shapes, export_shapes, open_images

LAYOUTS = ("imagenet", "voc", "coco", "cityscapes")


def _apart(image, drawn):
    return (image.float() - drawn.float()).abs().mean()


def _files(folder):
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*.*")}


def test_imagenet_layout_holds_the_drawn_images(tmp_path):
    spec = export_shapes(tmp_path / "world", "imagenet", n_train=14, n_val=5, seed=3, size=32)
    assert spec == f"folder:{tmp_path / 'world'}"
    vocabulary = open_images(spec).class_names
    for split, n in (("train", 14), ("val", 5)):
        images, drawn = open_images(spec, split), draw_shapes(3, split, range(n), 32)
        assert len(images) == n
        assert images.class_names == vocabulary  # of the classes that are drawn at all
        for i in range(n):
            number = int(images.name(i)[-13:-5])
            name = images.class_names[int(images.labels[i])]
            assert name == SHAPES_CLASS_NAMES[drawn.labels[number]].replace(" ", "-")
            assert _apart(images[i].image, drawn.images[number]) < 12  # JPEG stores colour at half the resolution


@pytest.mark.parametrize(("year", "image_id"), [("VOC2007", "{:06}"), ("VOC2012", "2012_{:06}")])
def test_voc_layout_is_read_back(tmp_path, year, image_id):
    spec = export_shapes(tmp_path, "voc", n_train=30, n_val=7, seed=1, size=48)
    assert spec == f"voc07:{tmp_path}"
    second, n_difficult = year == "VOC2012", 0
    spec += "/VOC2012" if second else ""
    for split, n, first in (("train", 30, 1), ("val", 7, 31)):
        images = open_images(spec, split)
        assert len(images) == n
        assert len(images.class_names) == 12
        scenes = draw_scenes(1, split, range(second * n, second * n + n), 48)  # other scenes than VOC2007
        for i, (row, scene) in enumerate(zip(images.labels.tolist(), scenes, strict=True)):
            assert _apart(images[i].image, scene.image) < 12
            xml = ElementTree.parse(str(tmp_path / year / f"Annotations/{image_id.format(first + i)}.xml"))
            assert [int(xml.findtext(f"size/{c}")) for c in ("width", "height", "depth")] == [64, 48, 3]
            expected = dict.fromkeys(images.class_names, 0)
            for label, box, item in zip(scene.labels.tolist(), scene.boxes, xml.findall("object"), strict=True):
                x1, y1, x2, y2 = (int(item.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax"))
                assert [x1 - 1, y1 - 1, x2, y2] == box.tolist()
                class_name = SHAPES_CLASS_NAMES[label].replace(" ", "-")
                assert item.findtext("name") == class_name
                difficult = max(x2 - x1 + 1, y2 - y1 + 1) < 12
                assert item.findtext("difficult") == str(int(difficult))
                n_difficult += difficult
                expected[class_name] = 1 if not difficult or expected[class_name] == 1 else -1
            assert row == list(expected.values())
    assert n_difficult > 0
    for file in tmp_path.glob(f"{year}/ImageSets/Main/*_*.txt"):
        file.unlink()
    assert np.array_equal(open_images(spec, "val").labels, images.labels)  # from the annotations


def test_one_easy_object_of_a_class_is_enough(tmp_path, monkeypatch):
    boxes = torch.tensor([[0, 0, 16, 16], [0, 0, 4, 4]])  # easy, then difficult
    masks = torch.ones(2, 32, 42, dtype=torch.bool)
    scene = Scene(torch.zeros(3, 32, 42, dtype=torch.uint8), torch.tensor([0, 0]), boxes, masks)
    monkeypatch.setattr("indexed_images._scene_files.draw_scenes", lambda seed, split, indices, size: [scene])
    spec = export_shapes(tmp_path, "voc", n_train=1, n_val=1, size=32)
    assert open_images(spec).labels.sum() == 1
    assert (tmp_path / "VOC2007/ImageSets/Main/plain-disc_trainval.txt").read_text() == "000001  1\n"
    assert (
        tmp_path / "VOC2012/ImageSets/Segmentation/aug.txt"
    ).read_text() == ""  # the only image has masks in VOC itself


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bytes_at_the_same_seed_and_no_image_twice(tmp_path, layout):
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        export_shapes(tmp_path / name, layout, n_train=4, n_val=3, seed=seed, size=32)
    first, again, other = (_files(tmp_path / name) for name in "abc")
    assert first == again
    images = {file: digest for file, digest in first.items() if Path(file).suffix in (".jpg", ".JPEG")}
    images |= {file: digest for file, digest in first.items() if "leftImg8bit" in file}
    assert len(images) == len(set(images.values())) == (14 if layout == "voc" else 7)
    assert not set(images.values()) & set(other.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_default_sizes(tmp_path, layout):
    export_shapes(tmp_path, layout, n_train=1, n_val=1)
    images = open_images(f"folder:{tmp_path / 'leftImg8bit' if layout == 'cityscapes' else tmp_path}")
    assert images[0].image.shape[1:] == ((64, 64) if layout == "imagenet" else (128, 170))


def test_a_broken_export_leaves_nothing(tmp_path, monkeypatch):
    drawn = iter([draw_scenes(0, "train", [0], 32)])
    monkeypatch.setattr("indexed_images._scene_files.draw_scenes", lambda *_: next(drawn))
    with pytest.raises(RuntimeError, match="StopIteration"):
        export_shapes(tmp_path / "there" / "world", "coco", n_train=1, n_val=1, size=32)
    assert not list((tmp_path / "there").iterdir())


def test_nothing_is_at_its_place_before_all_is_written(tmp_path, monkeypatch):
    world, seen = tmp_path / "world", []
    world.mkdir()

    def draw(*args):
        seen.append(list(world.iterdir()))
        return draw_scenes(*args)

    monkeypatch.setattr("indexed_images._scene_files.draw_scenes", draw)
    export_shapes(world, "cityscapes", n_train=1, n_val=1, size=32)
    assert seen == [[], []]
    assert sorted(tmp_path.iterdir()) == [world]
    assert sorted(f.name for f in world.iterdir()) == ["gtFine", "leftImg8bit"]
    (tmp_path / "other").mkdir()
    assert world.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_export_refusals(tmp_path):
    with pytest.raises(ValueError, match="layout must be 'imagenet', 'voc', 'coco' or 'cityscapes', got 'yolo'"):
        export_shapes(tmp_path, "yolo")
    with pytest.raises(ValueError, match="at least 1, got 0 and 200"):
        export_shapes(tmp_path, n_train=0)
    for layout in LAYOUTS:
        for size in (0, 15 if layout == "imagenet" else 31):
            with pytest.raises(ValueError, match=f"at least {16 if layout == 'imagenet' else 32} pixels.*got {size}"):
                export_shapes(tmp_path / "small", layout, size=size)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").touch()
    for layout in LAYOUTS:
        with pytest.raises(FileExistsError, match="is not empty"):
            export_shapes(tmp_path, layout)
    with pytest.raises(NotADirectoryError):
        export_shapes(tmp_path / "x")
