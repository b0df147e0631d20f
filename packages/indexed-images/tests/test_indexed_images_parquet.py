import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_images import CorruptImage, NoSuchSplit, open_images
from PIL import Image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("INDEXED_IMAGES_CACHE", str(folder))
    return folder / "tables"


def _png(value, size=(4, 3)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def _write(path, columns, features=None, **options):
    """Write a table; `features` are those that Hugging Face datasets would note in the schema."""
    table = pa.table(columns)
    if features is not None:
        noted = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return f"parquet:{path}"


def _images(*values):
    return [{"bytes": _png(value), "path": f"{value}.png"} for value in values]


def _classes(*names):
    return {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}


def _seen(images):
    return [int(images[i].image[0, 0, 0]) for i in range(len(images))]


def test_a_table_as_hugging_face_writes_it(tmp_path):
    spec = _write(tmp_path / "x.parquet", {"image": _images(10, 20, 30), "label": [2, 0, 2]}, _classes("c", "a", "b"))
    images = open_images(spec)
    assert _seen(images) == [10, 20, 30]
    assert images.labels.tolist() == [2, 0, 2]
    assert images.class_names == ["c", "a", "b"]  # not sorted: labels are their indices
    assert images.remarks == ("images in column 'image', labels in column 'label'",)
    assert images.bytes(1) == _png(20)
    assert images.name(2) == f"{tmp_path}/x.parquet[2]"
    assert open_images(tmp_path / "x.parquet").spec == spec
    with pytest.raises(NoSuchSplit, match="name the folder that holds the files of all splits"):
        open_images(spec, "val")


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"),
        ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/val-0-of-1", "data/test-00000-of-00001"),
        ("train/0000", "train/0001", "validation/0000", "test/0000"),
        ("my_train_0", "my_train_1", "my_valid_0", "my_test_0"),
    ],
)
def test_files_are_splits_by_their_names(tmp_path, names):
    for name, value, label in zip(names, (10, 20, 30, 40), ("b", "c", "c", "a"), strict=True):
        _write(tmp_path / f"{name}.parquet", {"image": _images(value), "label": [label]})
    pattern = f"parquet:{tmp_path}/**/*.parquet"
    for spec in (f"parquet:{tmp_path}", pattern):
        assert [_seen(open_images(spec, s)) for s in ("train", "val", "test")] == [[10, 20], [30], [40]]
        assert [open_images(spec, s).labels.tolist() for s in ("train", "val", "test")] == [[1, 2], [2], [0]]
        assert open_images(spec, "val").class_names == ["a", "b", "c"]
        assert open_images(spec, "val").place == "files of 'val'"


def test_files_of_unclear_splits(tmp_path):
    for name in ("train-0", "test-0", "rest-0"):
        _write(tmp_path / f"{name}.parquet", {"image": _images(10)})
    with pytest.raises(ValueError, match=r"rest-0.parquet: the names of other files say their split, but these do not"):
        open_images(f"parquet:{tmp_path}")
    images = open_images(f"parquet:{tmp_path}/test-0.parquet")
    assert len(images) == 1
    for name in ("some", "test-0"):
        _write(tmp_path / "train" / f"{name}.parquet", {"image": _images(10)})
    with pytest.raises(ValueError, match=r"some.parquet: the names of other files say"):
        open_images(f"parquet:{tmp_path}/train")  # the name of the folder itself says nothing
    for name in ("a/train-0", "b/train-0", "b/test-0"):
        _write(tmp_path / "two" / f"{name}.parquet", {"image": _images(10)})
    with pytest.raises(ValueError, match=r"files of 'train' lie in .*/a, .*/b: open one folder, or join them"):
        open_images(f"parquet:{tmp_path}/two")
    _write(tmp_path / "some" / "train-00001-of-00003.parquet", {"image": _images(10)})
    _write(tmp_path / "some" / "train-00002-of-00003.parquet", {"image": _images(10)})
    images = open_images(f"parquet:{tmp_path}/some")
    assert "only 2 of 3 files of train are there" in images.remarks
    assert "all files are of the split 'train'" in images.remarks


def test_a_column_of_splits_in_a_table(tmp_path):
    columns = {"image": _images(10, 20, 30), "label": ["x", "y", "x"], "split": ["train", "test", "train"]}
    spec = _write(tmp_path / "x.parquet", columns)
    assert _seen(open_images(spec)) == [10, 30]
    assert _seen(open_images(spec, "val")) == [20]
    assert open_images(spec, "val").labels.tolist() == [1]


def test_a_minus_one_without_its_sign_in_a_table(tmp_path):
    columns = {"image": _images(10, 20, 30), "label": pa.array([0, 255, 1], pa.uint8())}
    with pytest.raises(ValueError, match=r"'label': 1 of 3 labels are 255, the largest uint8, .* without its sign"):
        open_images(_write(tmp_path / "x.parquet", columns))


def test_columns_that_may_be_labels_are_told(tmp_path):
    columns = {"img": _images(10, 20), "id": [1, 2], "fine_label": [3, 4], "coarse_label": [0, 1], "boxes": [[1], [2]]}
    spec = _write(tmp_path / "x.parquet", columns)
    images = open_images(spec)
    assert images.labels is None
    said = "images in column 'img', no column of labels; --label-field names one of 'fine_label', 'coarse_label'"
    assert said in images.remarks
    assert open_images(spec, label_field="fine_label").labels.tolist() == [3, 4]


def test_columns_of_flags_and_folds_in_a_table(tmp_path):
    columns = {"image": _images(10, 20, 30), "label": ["x", "y", "x"], "train": [True, False, True]}
    spec = _write(tmp_path / "x.parquet", columns)
    assert _seen(open_images(spec)) == [10, 30]
    assert _seen(open_images(spec, "test")) == [20]
    spec = _write(tmp_path / "y.parquet", {"image": _images(10, 20), "label": [0, 1], "fold": [0, 1]})
    images = open_images(spec)
    assert _seen(images) == [10, 20]
    assert "column 'fold' ('0', '1') was not understood as train, val and test: all rows are read" in images.remarks


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.string(), pa.large_string()])
def test_images_as_bytes_or_paths(tmp_path, kind):
    for value in (10, 20):
        (tmp_path / f"{value}.png").write_bytes(_png(value))
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    values = [f"{value}.png" if is_text else _png(value) for value in (20, 10)]
    spec = _write(tmp_path / "x.parquet", {"id": ["u", "v"], "image": pa.array(values, kind), "label": ["a", "b"]})
    images = open_images(spec)
    assert _seen(images) == [20, 10]
    assert images.class_names == ["a", "b"]


def test_bytes_here_and_paths_there(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.png").write_bytes(_png(20))
    rows = [{"bytes": _png(10), "path": None}, {"bytes": None, "path": "f/a.png"}, {"bytes": _png(30), "path": "none"}]
    spec = _write(tmp_path / "x.parquet", {"image": rows, "label": [1, 2, 3]})
    images = open_images(spec)
    assert _seen(images) == [10, 20, 30]
    assert _seen(pickle.loads(pickle.dumps(images))) == [10, 20, 30]
    os.remove(tmp_path / "f" / "a.png")
    with pytest.raises(CorruptImage, match=r"x.parquet\[1\] \(index 1\): No such file"):
        images[1]
    with pytest.raises(FileNotFoundError, match="of 1 looked for, 1 are not there"):
        open_images(spec)
    for nothing in ({"bytes": None, "path": None}, None):
        spec = _write(tmp_path / "y.parquet", {"image": [*_images(10), nothing, *_images(30)]})
        with pytest.raises(ValueError, match="row 2 of column 'image' has neither bytes nor a path"):
            open_images(spec)


@pytest.mark.parametrize(
    ("labels", "feature", "names", "expected"),
    [
        ([[0, 2], [1, 2], [1, 0]], True, ["a", "b", "c"], [[1, 0, 1], [0, 1, 1], [1, 1, 0]]),
        ([[0, 1], [1, 0], [1, 0]], True, ["a", "b", "c"], [[1, 1, 0], [1, 1, 0], [1, 1, 0]]),  # indices, no 0/1 rows
        ([[0, 1], [1, 1], [0, 0]], False, None, [[0, 1], [1, 1], [0, 0]]),
        ([["x", "y"], [], ["y"]], False, ["x", "y"], [[1, 1], [0, 0], [0, 1]]),
        ([-1, -1, -1], False, None, None),
        ([None, None, None], False, None, None),
        ([True, False, True], False, None, [1, 0, 1]),
        ([1.0, 0.0, 2.0], False, None, [1, 0, 2]),
    ],
)
def test_labels_of_a_table(tmp_path, labels, feature, names, expected):
    inner = {"names": ["a", "b", "c"], "_type": "ClassLabel"}
    for several in ({"feature": inner, "_type": "List"}, [inner]):
        features = {"label": several} if feature else None
        images = open_images(_write(tmp_path / "x.parquet", {"image": _images(10, 20, 30), "label": labels}, features))
        assert images.class_names == names
        assert (None if images.labels is None else images.labels.tolist()) == expected


def test_columns_of_a_table_are_found_or_named(tmp_path):
    two = {"coarse": {"names": ["p", "q"], "_type": "ClassLabel"}, "fine": {"names": ["a", "b"], "_type": "ClassLabel"}}
    columns = {"left": _images(10, 20), "right": _images(30, 40), "coarse": [0, 1], "fine": [1, 0]}
    spec = _write(tmp_path / "x.parquet", columns, two)
    with pytest.raises(ValueError, match="'left', 'right' may all hold images: name one with --image-field"):
        open_images(spec)
    with pytest.raises(ValueError, match="'coarse', 'fine' may all hold labels: name one with --label-field"):
        open_images(spec, image_field="right")
    images = open_images(spec, image_field="Right", label_field="fine")
    assert (_seen(images), images.labels.tolist(), images.class_names) == ([30, 40], [1, 0], ["a", "b"])
    assert _seen(open_images(spec, image_field="left", label_field="fine")) == [10, 20]  # a copy of its own
    with pytest.raises(ValueError, match="has no column 'z'"):
        open_images(spec, image_field="z")
    with pytest.raises(ValueError, match="column 'coarse' holds int64: expected bytes"):
        open_images(spec, image_field="coarse", label_field="fine")
    one = open_images(_write(tmp_path / "y.parquet", {"foto": _images(10), "sort": [0]}, {"sort": two["fine"]}))
    assert one.class_names == ["a", "b"]
    assert "images in column 'foto', labels in column 'sort'" in one.remarks


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"u": [1, 2]}, "no column of images among 'u': name it with --image-field"),
        ({"image": [[[1, 2]], [[3]]]}, r"no column of images among 'image' \('image' holds list<"),
        ({"image": [_images(10), _images(20)]}, "'image' holds list<"),
        ({"image": pa.array([], pa.binary())}, "no rows"),
        ({"image": _images(10, 20), "label": [0, None]}, "1 of 2 images have a label"),
        ({"image": _images(10, 20), "label": [0, 3]}, "3 class names for 4 classes"),
        ({"image": _images(10, 20), "label": [0.5, 1]}, "is no class"),
        ({"image": _images(10, 20), "label": [b"\xff", b"x"]}, "is no class"),
        ({"image": _images(10, 20), "label": [{"a": 1}, {"a": 2}]}, "is no class"),
        ({"image": _images(10, 20), "label": [0, 1], "class": [0, 1]}, "may all hold labels"),
    ],
)
def test_table_refusals(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message) as error:
        open_images(_write(tmp_path / "x.parquet", columns, _classes("a", "b", "c")))
    assert "\n" not in str(error.value)


def test_files_of_a_split_that_differ(tmp_path):
    _write(tmp_path / "a.parquet", {"image": _images(10), "label": [0]}, _classes("a", "b"))
    _write(tmp_path / "b.parquet", {"image": _images(10), "label": [0]}, _classes("b", "a"))
    with pytest.raises(ValueError, match=r"b.parquet: the class names differ from those of .*a.parquet"):
        open_images(f"parquet:{tmp_path}")
    _write(tmp_path / "b.parquet", {"img": _images(10), "label": [0]})
    with pytest.raises(ValueError, match=r"images in column 'img'.*but in .*a.parquet: images in column 'image'"):
        open_images(f"parquet:{tmp_path}")


def test_a_held_out_split_without_labels(tmp_path):
    _write(tmp_path / "train.parquet", {"image": _images(10), "label": [1]}, _classes("a", "b"))
    _write(tmp_path / "test.parquet", {"image": _images(20), "label": [-1]}, _classes("a", "b"))
    assert open_images(f"parquet:{tmp_path}", "test").labels is None
    _write(tmp_path / "test.parquet", {"image": _images(20)})
    assert open_images(f"parquet:{tmp_path}", "test").labels is None
    assert open_images(f"parquet:{tmp_path}").labels.tolist() == [1]


def test_the_copy_is_made_once_and_again_after_a_change(tmp_path, cache):
    spec = _write(tmp_path / "x.parquet", {"image": _images(10, 20)}, row_group_size=1)
    images = open_images(spec)
    (copy,) = [file for file in cache.iterdir() if not file.suffix]
    before = copy.stat().st_mtime_ns
    assert _seen(open_images(spec)) == [10, 20]
    assert copy.stat().st_mtime_ns == before
    state = pickle.dumps(images)
    os.remove(tmp_path / "x.parquet")
    assert _seen(pickle.loads(state)) == [10, 20]  # from the copy
    spec = _write(tmp_path / "x.parquet", {"image": _images(30, 40, 50)})
    assert _seen(open_images(spec)) == [30, 40, 50]
    assert sorted(file.suffix for file in cache.iterdir()) == ["", "", ".lock", ".lock"]
    os.truncate(copy, 20)
    with pytest.raises(CorruptImage, match="was cut since it was opened"):
        images[0]


def test_a_copy_that_failed_is_not_used(tmp_path, cache, monkeypatch):
    spec = _write(tmp_path / "x.parquet", {"image": _images(10, 20)})
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            open_images(spec)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]
    with monkeypatch.context() as patch:
        patch.setattr("indexed_images._stored_bytes.SPARE", 1 << 60)
        with pytest.raises(OSError, match=r"a copy of its images takes 0.0 GB, .* free: name a larger disk in INDEXED"):
            open_images(spec)
    assert _seen(open_images(spec)) == [10, 20]


def _open_and_sum(spec):
    return sum(_seen(open_images(spec)))


def test_a_table_that_is_opened_several_times_at_once(tmp_path, cache):
    spec = _write(tmp_path / "x.parquet", {"image": _images(*range(0, 250, 10))})
    with ThreadPoolExecutor(3) as pool:  # the lock is one between processes, and between open files of one
        assert list(pool.map(_open_and_sum, [spec] * 6)) == [3000] * 6
    assert sorted(file.suffix for file in cache.iterdir()) == ["", ".lock"]


def test_a_large_table_is_read_at_random(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, 500).tolist()
    spec = _write(tmp_path / "x.parquet", {"image": _images(*values), "label": values}, row_group_size=33)
    images = open_images(spec)
    for i in np.random.default_rng(1).permutation(500)[:100].tolist():
        assert int(images[i].image[0, 0, 0]) == images[i].label == values[i]


def test_files_that_are_no_tables(tmp_path):
    for spec in ("parquet:", f"parquet:{tmp_path}", f"parquet:{tmp_path}/*.parquet"):
        with pytest.raises(FileNotFoundError, match="write parquet:FILE, parquet:FOLDER or a pattern"):
            open_images(spec)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing PAR1")
    with pytest.raises(ValueError, match=r"x.parquet is no parquet file that can be read"):
        open_images(f"parquet:{tmp_path}/x.parquet")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'indexed-images\[parquet\]'"):
        open_images(f"parquet:{tmp_path}")


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_table_is_read_or_one_line(tmp_path, data):
    _write(tmp_path / "x.parquet", {"image": _images(10, 20), "label": [0, 1]}, _classes("a", "b"))
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, 150) | st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "x.parquet").write_bytes(content[: data.draw(st.sampled_from([None, None, 5, 200, -9]))])
    said = ""
    try:
        open_images(f"parquet:{tmp_path}/x.parquet").resident()
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    assert "\n" not in said
