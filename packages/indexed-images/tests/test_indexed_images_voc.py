import os
import pickle
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from indexed_images import NoSuchSplit, open_images
from PIL import Image
from torch.utils.data import DataLoader


def _year(kit, name="VOC2007", trainval=("000005", "000012", "000007"), held_out=("000001",), test="test"):
    """Classes cat and dog: 000005 cat; 000007 a difficult dog; 000012 neither; 000001 both, dog once easy once not."""
    objects = {"000005": ["cat0"], "000007": ["dog1"], "000012": [], "000001": ["dog1", "cat0", "dog0"]}
    year = kit / name
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / folder).mkdir(parents=True)
    first = "trainval" if test == "test" else "train"
    for split, ids in ((first, trainval), (test, held_out)):
        (year / f"ImageSets/Main/{split}.txt").write_text("".join(f"{i}\n" for i in ids))
        for k, image in enumerate(ids):
            Image.new("RGB", (5 + k, 4)).save(year / f"JPEGImages/{image}.jpg")
            items = "".join(
                f"<object><name>{o[:-1]}</name><part><name>head</name></part><difficult>{o[-1]}</difficult></object>"
                for o in objects[image]
            )
            (year / f"Annotations/{image}.xml").write_text(f"<annotation>{items}</annotation>")
        for name_ in ("dog", "cat"):
            lines = ""
            for image in ids:
                flags = [o[-1] for o in objects[image] if o[:-1] == name_]
                lines += f"{image} {1 if '0' in flags else 0 if flags else -1:2d}\n"
            (year / f"ImageSets/Main/{name_}_{split}.txt").write_text(lines)
    return year


@pytest.mark.parametrize("source", ["class files", "annotations"])
@pytest.mark.parametrize("path", [".", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_labels_of_both_splits(tmp_path, source, path):
    year = _year(tmp_path / "VOCdevkit")
    _year(tmp_path / "VOCdevkit", "VOC2012", test="val")
    if source == "annotations":
        for file in year.glob("ImageSets/Main/*_*.txt"):
            file.unlink()
    images = open_images(f"voc07:{tmp_path / path}")
    assert images.class_names == ["cat", "dog"]
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == [[1, 0], [0, -1], [0, 0]]  # rows by id: 000005, 000007, 000012
    assert [Path(images.name(i)).stem for i in range(3)] == ["000005", "000007", "000012"]
    for split in ("val", "test"):
        assert open_images(f"voc07:{tmp_path / path}", split).labels.tolist() == [[1, 1]]  # one easy dog is enough


def test_a_class_that_is_in_one_split_alone_keeps_its_column(tmp_path):
    year = _year(tmp_path, trainval=("000007", "000012"))
    for file in year.glob("ImageSets/Main/*_*.txt"):
        file.unlink()
    assert open_images(f"voc07:{tmp_path}").labels.tolist() == [[0, -1], [0, 0]]  # no cat in trainval


def test_multi_label_samples(tmp_path):
    _year(tmp_path)
    images = open_images(f"voc07:{tmp_path}")
    assert [sample.label for sample in images] == [-1, -1, -1]
    assert repr(images).endswith("3 images, 2 classes, multi-label)")
    assert torch.equal(pickle.loads(pickle.dumps(images)).labels, images.labels)
    batch = next(iter(DataLoader(images)))
    assert batch.label.tolist() == [-1]
    assert images.resident(size=4).shape == (3, 3, 4, 4)


def test_another_year_has_no_public_test_labels(tmp_path):
    year = _year(tmp_path, "VOC2012", test="val")
    (year / "ImageSets/Main/trainval.txt").write_text("000001\n000005\n000007\n000012\n")
    (year / "ImageSets/Main/test.txt").write_text("000099\n")
    assert len(open_images(f"voc07:{tmp_path}")) == 3  # train, not trainval, which holds val
    assert len(open_images(f"voc07:{tmp_path}", "test")) == 1


def test_refusals_say_what_to_do(tmp_path):
    def refused(error, match, split="train", path=tmp_path):
        with pytest.raises(error, match=match) as caught:
            open_images(f"voc07:{path}", split)
        assert "\n" not in str(caught.value)

    refused(FileNotFoundError, "is not a VOCdevkit: expected VOC2007/")
    refused(FileNotFoundError, "no folder", path=tmp_path / "nothing")
    year = _year(tmp_path)
    main = year / "ImageSets/Main"
    (main / "test.txt").rename(tmp_path / "test.txt")
    refused(NoSuchSplit, r"unpack VOCtest_06-Nov-2007.tar", "val")
    assert len(open_images(f"voc07:{tmp_path}")) == 3  # still trainval
    (main / "dog_trainval.txt").write_text("000005 1\n000007 0\n")
    refused(ValueError, "1 of 3 images have no line, the first is '000012'")
    (main / "dog_trainval.txt").write_text("000005 2\n")
    refused(ValueError, r"line 1: expected `image_id 1\|0\|-1`, got '000005 2'")
    (main / "dog_trainval.txt").unlink()
    (tmp_path / "test.txt").rename(main / "test.txt")
    refused(FileNotFoundError, "no class file .*dog_trainval.txt")
    for file in main.glob("*_*.txt"):
        file.unlink()
    (year / "Annotations/000007.xml").write_text("<annotation>")
    refused(ValueError, "000007.xml is not an annotation")
    (year / "Annotations/000007.xml").unlink()
    refused(FileNotFoundError, "no class files in ImageSets/Main and no .*000007.xml")


def test_absent_images_are_counted(tmp_path):
    year = _year(tmp_path)
    (year / "JPEGImages/000007.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists 3 images; of 3 looked for, 1 are not there.*000007.jpg"):
        open_images(f"voc07:{tmp_path}")


def test_years_without_2007_must_be_named(tmp_path):
    for name in ("VOC2010", "VOC2012"):
        _year(tmp_path, name, test="val")
    with pytest.raises(FileNotFoundError, match="holds VOC2010, VOC2012 but no VOC2007: name one"):
        open_images(f"voc07:{tmp_path}")
    assert len(open_images(f"voc07:{tmp_path / 'VOC2012'}")) == 3


@pytest.fixture(scope="module")
def real_year(tmp_path_factory):
    root = Path(__file__).parents[3]
    file = Path(os.environ.get("CLUSTER_SSL_DATA", root.parent / "shared" / "data")) / "voc/voc2012_subset.tar"
    if not file.is_file():
        pytest.skip("shared/data is not here")
    folder = tmp_path_factory.mktemp("voc")
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    return folder / "VOCdevkit/VOC2012"


def test_the_real_subset_from_class_files_and_from_annotations(real_year):
    by_split = {split: open_images(f"voc07:{real_year.parent}", split) for split in ("train", "val")}
    assert [len(images) for images in by_split.values()] == [62, 46]
    assert len(by_split["train"].class_names) == 20
    for split, images in by_split.items():
        expected = np.zeros((len(images), 20), dtype=np.int64)
        for row in range(len(images)):
            xml = ElementTree.parse(str(real_year / f"Annotations/{Path(images.name(row)).stem}.xml"))
            for column, name in enumerate(images.class_names):
                difficult = [
                    o.findtext("difficult") == "1" for o in xml.findall("object") if o.findtext("name") == name
                ]
                expected[row, column] = 0 if not difficult else -1 if all(difficult) else 1
        assert images.labels.tolist() == expected.tolist()
        for file in real_year.glob(f"ImageSets/Main/*_{split}.txt"):
            file.rename(file.with_suffix(".away"))
    assert (by_split["train"].labels == 1).any(0).all()
    for split, images in by_split.items():
        again = open_images(f"voc07:{real_year}", split)
        assert again.class_names == images.class_names
        assert torch.equal(again.labels, images.labels)
    for file in real_year.glob("ImageSets/Main/*.away"):
        file.rename(file.with_suffix(".txt"))
    assert by_split["val"].resident(size=32).shape == (46, 3, 32, 32)
