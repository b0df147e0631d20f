"""Folders of Hugging Face's library; nothing is fetched from the Hub."""

import io
import pickle
import sys

import pytest
from indexed_images import CorruptImage, NoSuchSplit, open_images
from PIL import Image


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    return library


def _png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def _table(datasets, values, labels, names=("b", "a")):
    """A table as the library holds it; a value that is a text is the path of an image."""
    images = [{"bytes": None, "path": v} if isinstance(v, str) else {"bytes": _png(v), "path": None} for v in values]
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=datasets.Features(kinds))


def _seen(images):
    return [int(images[i].image[0, 0, 0]) for i in range(len(images))]


def test_a_saved_data_set_with_splits(tmp_path, datasets):
    splits = {
        "train": _table(datasets, [10, 20, 30], [1, 0, 1]),
        "validation": _table(datasets, [40], [0]),
        "test": _table(datasets, [50, 60], [-1, -1]),
        "extra": _table(datasets, [70], [0]),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "x")
    spec = f"hf:{tmp_path}/x"
    assert [_seen(open_images(spec, split)) for split in ("train", "val", "test")] == [[10, 20, 30], [40], [50, 60]]
    images = open_images(spec)
    assert images.labels.tolist() == [1, 0, 1]
    assert images.class_names == ["b", "a"]
    assert images.bytes(1) == _png(20)
    assert images.name(1) == f"{tmp_path}/x[1]"
    assert images.remarks == ("images in column 'image', labels in column 'label'", "passed over extra")
    val = open_images(spec, "val")
    assert (val.labels.tolist(), val.class_names, val.place) == ([0], ["b", "a"], "split 'val'")
    assert open_images(spec, "test").labels is None
    copy = pickle.loads(pickle.dumps(images))
    assert _seen(copy) == [10, 20, 30]


def test_a_saved_table_in_another_order(tmp_path, datasets):
    (tmp_path / "a.png").write_bytes(_png(20))
    table = _table(datasets, [10, str(tmp_path / "a.png"), 30, 40], [1, 0, 1, 0])
    table.select([3, 1, 0]).save_to_disk(tmp_path / "x")
    images = open_images(f"hf:{tmp_path}/x")
    assert _seen(images) == [40, 20, 10]
    assert images.labels.tolist() == [0, 0, 1]
    with pytest.raises(NoSuchSplit, match="only 'train'"):
        open_images(f"hf:{tmp_path}/x", "val")


def test_a_saved_table_with_a_column_of_splits(tmp_path, datasets):
    table = _table(datasets, [10, 20, 30, 40], [1, 0, 1, 0]).add_column("is_test", [0, 1, 0, 1])
    table.save_to_disk(tmp_path / "x")
    spec = f"hf:{tmp_path}/x"
    assert [_seen(open_images(spec, split)) for split in ("train", "val")] == [[10, 30], [20, 40]]
    test = open_images(spec, "test")
    assert (test.labels.tolist(), test.place) == ([0, 0], "is_test 'test'")
    assert _seen(pickle.loads(pickle.dumps(test))) == [20, 40]
    _table(datasets, [10, 20], [1, 0]).add_column("fold", [0, 1]).save_to_disk(tmp_path / "y")
    images = open_images(f"hf:{tmp_path}/y")
    assert _seen(images) == [10, 20]
    assert "column 'fold' ('0', '1') was not understood as train, val and test: all rows are read" in images.remarks


def test_a_folder_of_data_files(tmp_path, datasets, monkeypatch):
    for name, value in (("train/a/1.png", 10), ("train/b/2.png", 20), ("test/b/3.png", 30)):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(_png(value))
    spec = f"hf:{tmp_path}/x"
    assert _seen(open_images(spec)) == [10, 20]
    assert _seen(open_images(spec, "val")) == [30]
    assert open_images(spec, "val").labels.tolist() == [1]
    images = open_images(spec)
    assert images.class_names == ["a", "b"]
    (tmp_path / "x" / "train/b/2.png").unlink()  # the library notes paths
    with pytest.raises(CorruptImage, match=r"x\[1\] \(index 1\): No such file"):
        images[1]
    table = _table(datasets, [10, str(tmp_path / "none.png")], [0, 1])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: table)
    with pytest.raises(FileNotFoundError, match="lists 1 images; of 1 looked for, 1 are not there"):
        open_images(spec)
    table = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": None}, {"bytes": _png(10), "path": None}]})
    with pytest.raises(ValueError, match="1 rows of column 'image' have neither bytes nor a path"):
        open_images(spec)


def test_data_sets_that_cannot_be_opened(tmp_path, datasets):
    for spec, kind, message in (
        ("hf:", FileNotFoundError, r"write hf:NAME\[,CONFIG\] or hf:FOLDER"),
        (f"hf:{tmp_path}", (FileNotFoundError, ValueError), "cannot open the data set"),
        ("hf:no/such,config", OSError, "cannot open the data set 'no/such'"),
    ):
        with pytest.raises(kind, match=message) as error:
            open_images(spec)
        assert "\n" not in str(error.value)


def test_an_old_library_that_runs_scripts_is_refused(tmp_path, datasets, monkeypatch):
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ImportError, match=r"needs datasets 4 or later, got 3\.6\.0"):
        open_images(f"hf:{tmp_path}")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'indexed-images\[hf\]'"):
        open_images(f"hf:{tmp_path}")
