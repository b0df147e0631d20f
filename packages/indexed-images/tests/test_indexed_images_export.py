from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from indexed_images import SHAPES_CLASS_NAMES, ShapesBatch, draw_shapes, export_shapes, open_images


def _apart(image, drawn):
    return (image.float() - drawn.float()).abs().mean()


def test_imagenet_layout_holds_the_drawn_images(tmp_path):
    spec = export_shapes(tmp_path / "world", "imagenet", n_train=14, n_val=5, seed=3, size=32)
    assert spec == f"folder:{tmp_path / 'world'}"
    for split, n in (("train", 14), ("val", 5)):
        images, drawn = open_images(spec, split), draw_shapes(3, split, range(n), 32)
        assert len(images) == n
        assert images.class_names == sorted(name.replace(" ", "-") for name in SHAPES_CLASS_NAMES)
        for i in range(n):
            number = int(images.name(i)[-13:-5])
            name = images.class_names[int(images.labels[i])]
            assert name == SHAPES_CLASS_NAMES[drawn.labels[number]].replace(" ", "-")
            assert _apart(images[i].image, drawn.images[number]) < 12  # JPEG halves the colour of 32 noisy pixels


def test_voc_layout_is_read_back(tmp_path):
    spec = export_shapes(tmp_path, "voc", n_train=30, n_val=7, seed=1, size=48)
    year, n_difficult = tmp_path / "VOC2007", 0
    for split, n, first in (("train", 30, 1), ("val", 7, 31)):
        images = open_images(spec, split)
        assert len(images) == n
        assert len(images.class_names) == 12
        for i, row in enumerate(images.labels.tolist()):
            drawn = draw_shapes(1, split, range(3 * i, 3 * i + 2 + i % 2), 48)
            xml = ElementTree.parse(str(year / f"Annotations/{first + i:06}.xml"))
            objects = xml.findall("object")
            assert images[i].image.shape == (3, 48, 48 * len(objects))
            assert _apart(images[i].image, torch.cat(list(drawn.images), dim=2)) < 12
            expected = dict.fromkeys(images.class_names, 0)
            for k, item in enumerate(objects):
                x1, y1, x2, y2 = (int(item.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax"))
                assert [x1 - 1 - 48 * k, y1 - 1, x2 - 48 * k, y2] == drawn.boxes[k].tolist()
                name = SHAPES_CLASS_NAMES[drawn.labels[k]].replace(" ", "-")
                assert item.findtext("name") == name
                difficult = max(x2 - x1 + 1, y2 - y1 + 1) < 24
                assert item.findtext("difficult") == str(int(difficult))
                n_difficult += difficult
                expected[name] = 1 if not difficult or expected[name] == 1 else -1
            assert row == list(expected.values())
    assert n_difficult > 0
    for file in year.glob("ImageSets/Main/*_*.txt"):
        file.unlink()
    assert np.array_equal(open_images(spec, "val").labels, images.labels)  # from the annotations


def test_one_easy_object_of_a_class_is_enough(tmp_path, monkeypatch):
    boxes = torch.tensor([[0, 0, 16, 16], [0, 0, 4, 4]])  # easy, then difficult
    batch = ShapesBatch(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 0]), boxes, torch.empty(0))
    monkeypatch.setattr("indexed_images._export.draw_shapes", lambda *_: batch)
    spec = export_shapes(tmp_path, "voc", n_train=1, n_val=1, size=16)
    assert open_images(spec).labels.sum() == 1
    assert (tmp_path / "VOC2007/ImageSets/Main/plain-disc_trainval.txt").read_text() == "000001  1\n"


def test_export_refusals(tmp_path):
    with pytest.raises(ValueError, match="layout must be 'imagenet' or 'voc', got 'coco'"):
        export_shapes(tmp_path, "coco")
    with pytest.raises(ValueError, match="at least 1, got 0 and 200"):
        export_shapes(tmp_path, n_train=0)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        export_shapes(tmp_path / "small", size=8)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        export_shapes(tmp_path)
