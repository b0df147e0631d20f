import json
import pickle

import pytest
import torch
from indexed_images import CorruptImage, NoSuchSplit, open_images
from PIL import Image

WNIDS = [f"n{10_000_000 + 37 * k}" for k in range(1000)]


def _save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path, format="PNG")


def _class_folders(folder, wnids=WNIDS):
    for wnid in wnids:
        (folder / wnid).mkdir(parents=True)


def _values(images):
    return [int(image[0, 0, 0]) for image, _, _ in images]


def _refused(error, match, spec, split="train"):
    with pytest.raises(error, match=match) as caught:
        open_images(spec, split)
    assert "\n" not in str(caught.value)


def test_imagenet_classes_are_sorted_wnids(tmp_path):
    _class_folders(tmp_path / "train", WNIDS[::-1])
    _class_folders(tmp_path / "val")
    (tmp_path / "train" / "lists").mkdir()  # not a class
    _save(tmp_path / "train" / WNIDS[999] / "b.JPEG", 1)
    _save(tmp_path / "train" / WNIDS[3] / "z.JPEG", 2)
    _save(tmp_path / "train" / WNIDS[3] / "a.JPEG", 3)
    _save(tmp_path / "val" / WNIDS[4] / "v.JPEG", 4)
    train = open_images(f"imagenet:{tmp_path}")
    assert train.class_names == WNIDS
    assert _values(train) == [3, 2, 1]
    assert train.labels.tolist() == [3, 3, 999]
    for split in ("val", "test"):
        assert open_images(f"imagenet:{tmp_path}", split).labels.tolist() == [4]


def test_imagenet_without_all_classes_is_refused(tmp_path):
    spec = f"imagenet:{tmp_path}"
    _refused(FileNotFoundError, "no folder train/ in .*, only nothing", spec)
    _refused(NoSuchSplit, "no folder val/", spec, "val")
    _class_folders(tmp_path / "train", WNIDS[:997])
    _refused(FileNotFoundError, "holds 997 of 1,000 class folders .*write folder:", spec)
    _class_folders(tmp_path / "val")
    _refused(FileNotFoundError, f"997 of 1,000.*without {', '.join(WNIDS[997:])} of val/", spec)
    (tmp_path / "train" / f"{WNIDS[998]}.tar").touch()
    _refused(FileNotFoundError, "and 1 archives: unpack each", spec)
    _class_folders(tmp_path / "train", [*WNIDS[997:999], "n99999999"])
    _refused(FileNotFoundError, f"val/ holds classes that train/ lacks, {WNIDS[999]};", spec)
    _refused(FileNotFoundError, "train/ holds classes that val/ lacks, n99999999;", spec, "val")
    (tmp_path / "train" / "n99999999").rename(tmp_path / "train" / WNIDS[999])
    _refused(FileNotFoundError, "no image in the class folders", spec)


def test_imagenet_with_flat_val(tmp_path):
    spec = f"imagenet:{tmp_path}"
    names = [f"ILSVRC2012_val_{k:08}.JPEG" for k in (1, 2, 3)]
    for k, name in enumerate(names):
        _save(tmp_path / "val" / name, k)
    _refused(
        FileNotFoundError,
        "3 images without class folders: .*val_labels.txt with one `.*1.JPEG label`",
        spec,
        "val",
    )
    (tmp_path / "val.txt").write_text(f"{names[2]} 999\nval/{names[0]} 65\n{names[1]} 0\n")
    images = open_images(spec, "val")
    assert images.labels.tolist() == [65, 0, 999]
    assert images.class_names is None
    assert repr(images).endswith("3 images, labels without names)")
    _class_folders(tmp_path / "train")
    assert open_images(spec, "val").class_names == WNIDS
    (tmp_path / "val_labels.txt").write_text(
        "".join(f"{n} {WNIDS[k]}\n" for n, k in zip(names, (7, 2, 7), strict=True))
    )
    images = open_images(spec, "val")
    assert images.labels.tolist() == [7, 2, 7]
    assert images.class_names == WNIDS
    for text, match in (
        (f"{names[0]} 1\n", "2 of 3 images have no line"),
        ("".join(f"{name} 1000\n" for name in names), "from 0 to 999, got '1000'"),  # 1-based ids have another order
        ("".join(f"{name} n99999999\n" for name in names), "name 1,001 classes together"),
        (f"{names[0]}\n", "line 1: expected `path label`"),
    ):
        (tmp_path / "val_labels.txt").write_text(text)
        _refused(ValueError, match, spec, "val")


@pytest.mark.parametrize("layout", ["plain", "archives"])
@pytest.mark.parametrize("separator", [" ", ",", ", ", "\t"])
def test_places205(tmp_path, layout, separator):
    lists = tmp_path if layout == "plain" else tmp_path / "trainvalsplit_places205"
    folder = tmp_path / ("images256" if layout == "plain" else "data/vision/torralba/deeplearning/images256")
    names = ["c/church/outdoor/b 1.jpg", "a/abbey/x,y.jpg", "c/church/outdoor/a.jpg"]
    for k, name in enumerate(names):
        _save(folder / name, k)
    lists.mkdir(exist_ok=True)
    lines = [f"{name}{separator}{label}\n" for name, label in zip(names, (40, 0, 40), strict=True)]
    (lists / "train_places205.csv").write_text("".join(lines))
    (lists / "val_places205.csv").write_text("/" + lines[1])
    train, val = open_images(f"places205:{tmp_path}"), open_images(f"places205:{tmp_path}", "val")
    assert _values(train) == [0, 1, 2]
    assert train.labels.tolist() == [40, 0, 40]
    assert (len(train.class_names), train.class_names[40], val.class_names[0]) == (205, "church/outdoor", "abbey")
    assert _values(val) == [1]
    assert torch.equal(pickle.loads(pickle.dumps(train)).labels, train.labels)


def test_places205_refusals(tmp_path):
    spec = f"places205:{tmp_path}"
    _refused(FileNotFoundError, "no file train_places205.csv or trainvalsplit_places205/train", spec)
    _refused(NoSuchSplit, "no file val_places205.csv", spec, "val")
    (tmp_path / "train_places205.csv").write_text("a/abbey/x.jpg 205\n")
    _refused(ValueError, "from 0 to 204, got '205'", spec)
    (tmp_path / "train_places205.csv").write_text("\n")
    _refused(ValueError, "names no image", spec)


def test_one_percent_may_be_absent_and_is_named_when_read(tmp_path):
    for k in range(198):
        _save(tmp_path / "images256" / f"{k}.jpg")
    names = [*range(198), "gone", "lost"]
    (tmp_path / "train_places205.csv").write_text("".join(f"{name}.jpg 0\n" for name in names))
    images = open_images(f"places205:{tmp_path}")
    with pytest.raises(CorruptImage, match=r"gone.jpg \(index 198\): No such file"):
        images[198]
    (tmp_path / "images256" / "0.jpg").unlink()
    _refused(FileNotFoundError, "lists 200 images; of 200 looked for, 3 are not there, .*0.jpg.*unpack", images.spec)


def test_a_long_list_is_sampled_from_end_to_end(tmp_path, monkeypatch):
    (tmp_path / "train_places205.csv").write_text("".join(f"{k}.jpg 0\n" for k in range(5000)))
    asked = []
    monkeypatch.setattr("os.path.exists", lambda path: asked.append(path) or True)
    assert len(open_images(f"places205:{tmp_path}")) == 5000
    assert len(asked) == 1000
    assert (asked[0], asked[-1]) == (f"{tmp_path}/0.jpg", f"{tmp_path}/4999.jpg")


def _inat(root, images, annotations, categories, split="train"):
    content = {
        "images": [{"id": i, "file_name": f"train_val2018/{i}.jpg"} for i in images],
        "annotations": [{"id": k, "image_id": i, "category_id": c} for k, (i, c) in enumerate(annotations)],
        "categories": [{"id": c, "name": f"species {c}"} for c in categories],
    }
    (root / f"{split}2018.json").write_text(json.dumps(content))


def test_inat18(tmp_path):
    for k in (7, 3, 5):
        _save(tmp_path / "train_val2018" / f"{k}.jpg", k)
    _inat(tmp_path, [7, 3], [(3, 12), (7, 40)], [40, 12, 2])  # annotations in another order than images
    _inat(tmp_path, [5], [(5, 40)], [40, 12, 2], "val")
    train, val = open_images(f"inat18:{tmp_path}"), open_images(f"inat18:{tmp_path}", "test")
    assert _values(train) == [7, 3]
    assert train.labels.tolist() == [2, 1]
    assert train.class_names == val.class_names == ["species 2", "species 12", "species 40"]
    assert (val.labels.tolist(), _values(val)) == ([2], [5])


def test_inat18_refusals(tmp_path):
    spec = f"inat18:{tmp_path}"
    _refused(FileNotFoundError, "no file train2018.json", spec)
    (tmp_path / "train2018.json").write_text("{")
    _refused(ValueError, "is not in COCO's form", spec)
    (tmp_path / "train2018.json").write_text('{"images": []}')
    _refused(ValueError, "COCO's form.*KeyError: 'annotations'", spec)
    _inat(tmp_path, [7, 3], [(3, 1)], [1])
    _refused(ValueError, "COCO's form.*KeyError: 7", spec)
    _inat(tmp_path, [3], [(3, 1), (3, 2)], [1, 2])
    _refused(ValueError, "2 annotations of 1 images", spec)
    _inat(tmp_path, [3], [(3, 1)], [1])
    _refused(FileNotFoundError, "lists 1 images; .* unpack train_val2018.tar.gz", spec)
