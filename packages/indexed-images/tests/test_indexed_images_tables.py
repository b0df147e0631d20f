import csv
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_images import NoSuchSplit, open_images
from indexed_images._read_tables import read_csv
from PIL import Image


def _save(folder, *names):
    """Save one image a name, whose pixels tell which one it is: 10, 20, 30, ..."""
    for k, name in enumerate(names, 1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (10 * k,) * 3).save(path, "PNG")


def _csv(folder, text, name="labels.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"csv:{folder}/{name}"


def _jsonl(folder, *rows):
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder}/x.jsonl"


def _seen(images):
    """Value of the pixels and name of the class, for each image."""
    labels = [None] * len(images) if images.labels is None else images.labels.tolist()
    names = images.class_names
    return [
        (int(images[i].image[0, 0, 0]), label if names is None or label is None else names[label])
        for i, label in enumerate(labels)
    ]


ABC = ("a.png", "b.png", "c.png")


@pytest.fixture
def folder(tmp_path):
    _save(tmp_path, *ABC)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "image,label\na.png,cat\nb.png,dog\nc.png,cat\n",
        "label,image\ncat,a.png\ndog,b.png\ncat,c.png\n",
        "\ufeffFile Name;Class\r\na.png;cat\r\n\r\nb.png;dog\r\nc.png;cat\r\n",
        "species\timage-path\textra\ncat\ta.png\t1\ndog\tb.png\t2\ncat\tc.png\t3\n",
        '"id"|"target"\n"a"|"cat"\n"b"|"dog"\n"c"|"cat"',
        ",filepath,label\n0,a.png,cat\n1,b.png,dog\n2,c.png,cat\n",
        "image , label\n a.png, cat \nb.png,dog,\nc.png,cat\n",
        "a.png,cat\nb.png,dog\nc.png,cat\n",
        "cat\ta.png\ndog\tb.png\ncat\tc.png\n",
        "sep=;\nimage;label\na.png;cat\nb.png;dog\nc.png;cat\n",
        "image,label\ra.png,cat\rb.png,dog\rc.png,cat\r",
        "class_id,class_name,path\n7,cat,a.png\n3,dog,b.png\n7,cat,c.png\n",
        "picture_of_it,cultivar\na.png,cat\nb.png,dog\nc.png,cat\n",
        "image,label\na.png,cat\nb.png,dog\nc.png,cat\n".encode("utf-16"),
    ],
)
def test_csv_of_any_making(folder, text):
    images = open_images(_csv(folder, text))
    assert _seen(images) == [(10, "cat"), (20, "dog"), (30, "cat")]
    assert images.class_names == ["cat", "dog"]
    assert images.remarks[0].startswith("images in column ")


def test_csv_quotes_commas_and_line_breaks(tmp_path):
    _save(tmp_path, 'a, "b".png', "c d.png")
    spec = _csv(tmp_path, 'image,label\n"a, ""b"".png","cat, tabby"\nc d.png,"two\nlines"\n')
    assert _seen(open_images(spec)) == [(10, "cat, tabby"), (20, "two\nlines")]


def test_csv_numbers_are_indices(folder):
    images = open_images(_csv(folder, "image,label\na.png,2\nb.png,0\nc.png,2.0\n"))
    assert images.labels.tolist() == [2, 0, 2]
    assert images.class_names is None
    images = open_images(_csv(folder, "image,label\na.png,-1\nb.png,-1\nc.png,-1\n"))
    assert images.labels is None


def test_csv_names_that_are_no_utf_8(tmp_path):
    (tmp_path / "x").mkdir()
    _save(tmp_path / "x", "a.png")
    target = str(tmp_path / "x").encode() + b"/\xe9.png"
    with open(tmp_path / "x" / "a.png", "rb") as source, open(target, "wb") as copy:
        copy.write(source.read())
    images = open_images(_csv(tmp_path / "x", b"image,label\n\xe9.png,caf\xe9\n"))
    assert _seen(images) == [(10, "caf\\xe9")]


def test_columns_are_named_by_the_user(folder):
    text = "image,mask,kind,label\na.png,c.png,x,1\nb.png,b.png,y,2\n"
    spec = _csv(folder, text)
    assert _seen(open_images(spec)) == [(10, 1), (20, 2)]
    images = open_images(spec, image_field="MASK", label_field="kind")
    assert _seen(images) == [(30, "x"), (20, "y")]
    assert "images in column 'mask', labels in column 'kind'" in images.remarks
    for option in ("image", "label"):
        message = rf"no column 'z' \(--{option}-field\), only 'image', 'mask', 'kind', 'label'"
        with pytest.raises(ValueError, match=message):
            open_images(spec, **{f"{option}_field": "z"})


def test_columns_of_zeros_and_ones_are_classes(folder):
    images = open_images(_csv(folder, "image,cat,dog,width\na.png,1,1,7\nb.png,0,-1,8\nc.png,0,0,9\n"))
    assert images.class_names == ["cat", "dog"]
    assert images.labels.tolist() == [[1, 1], [0, -1], [0, 0]]
    assert "labels in 0/1 columns 'cat', 'dog'" in images.remarks[0]
    one_each = _csv(folder, "image,dog,cat\na.png,1,0\nb.png,0,1\nc.png,0.0,1.0\n")
    assert _seen(open_images(one_each)) == [(10, "dog"), (20, "cat"), (30, "cat")]
    both = open_images(one_each, label_field="cat,dog")
    assert _seen(both) == [(10, "dog"), (20, "cat"), (30, "cat")]
    assert both.class_names == ["cat", "dog"]
    odd = _csv(folder, "image,dog,cat\na.png,1,x\nb.png,0,1\n")
    with pytest.raises(ValueError, match="label columns must hold 0, 1 or -1 in every row"):
        open_images(odd, label_field="cat,dog")


def test_a_column_without_a_usual_name_may_be_no_label(folder):
    for text in ("image,x\na.png,1\nb.png,2\n", "image,x\na.png,0.5\nb.png,0.5\n", "image,caption\na.png,u\nb.png,u\n"):
        images = open_images(_csv(folder, text))
        assert images.labels is None
        assert "no column of labels; --label-field names one of" in images.remarks[0]


SPLITS = "image,label,Split\na.png,1,train\nb.png,2,valid\nc.png,7,test\nd.png,,unlabeled\ne.png,7,Train\n"


def test_a_column_of_splits(tmp_path):
    _save(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    spec = _csv(tmp_path, SPLITS)
    assert _seen(open_images(spec)) == [(10, 1), (50, 7)]
    val = open_images(spec, "val")
    assert _seen(val) == [(20, 2)]
    assert val.place == "Split 'val'"
    assert _seen(open_images(spec, "test")) == [(30, 7)]
    assert "passed over 1 unlabelled rows (column 'Split')" in val.remarks
    names = _csv(tmp_path, SPLITS.replace(",1,", ",y,").replace(",2,", ",z,").replace(",7,", ",x,"))
    assert [_seen(open_images(names, split)) for split in ("train", "val")] == [[(10, "y"), (50, "x")], [(20, "z")]]
    assert open_images(names, "val").class_names == ["x", "y", "z"]


def test_labels_have_one_kind_in_all_splits(tmp_path):
    _save(tmp_path, *ABC)
    # every row of val alone holds a single 1, which would be one class an image
    spec = _csv(tmp_path, "image,cat,dog,split\na.png,1,1,train\nb.png,0,1,train\nc.png,1,0,val\n")
    assert open_images(spec, "val").labels.tolist() == [[1, 0]]
    # the numbers of val alone would be indices
    spec = _csv(tmp_path, "image,label,split\na.png,x,train\nb.png,2,train\nc.png,2,val\n")
    assert open_images(spec, "val").class_names == ["2", "x"]
    assert open_images(spec, "val").labels.tolist() == [0]
    spec = _csv(tmp_path, "image,label,split\na.png,x,train\nb.png,y,train\nc.png,,test\n")
    assert open_images(spec, "test").labels is None
    assert open_images(spec).labels.tolist() == [0, 1]


def test_columns_that_flag_a_split(folder):
    spec = _csv(folder, "image,label,is_valid\na.png,1,False\nb.png,2,True\nc.png,1,False\n")
    assert _seen(open_images(spec)) == [(10, 1), (30, 1)]
    assert _seen(open_images(spec, "val")) == [(20, 2)]
    spec = _csv(folder, "image,label,is_train\na.png,1,1\nb.png,2,0\nc.png,1,1\n")
    assert _seen(open_images(spec, "test")) == [(20, 2)]


@pytest.mark.parametrize(
    ("column", "values", "split"),
    [
        ("is_test", ",1,", "test"),
        ("is_valid", "f,t,f", "val"),
        ("isTrain", "yes,no,yes", "test"),
        ("train", "1,0,1", "test"),
        ("train", "TRUE,FALSE,TRUE", "test"),
        ("val", "0,1,0", "val"),
        ("test", "n,y,n", "test"),
        ("is_val,is_test", "0,0;1,0;0,0", "val"),
        ("train,test", "1,0;0,1;1,0", "test"),
        ("is_train,is_val", "1,0;0,0;1,0", "test"),
        ("cv_split", "train,val,train", "val"),
    ],
)
def test_columns_that_say_a_split_by_true_and_false(folder, column, values, split):
    rows = values.split(";") if ";" in values else values.split(",")
    lines = (f"{name},{label},{row}\n" for name, label, row in zip(ABC, (1, 2, 1), rows, strict=True))
    spec = _csv(folder, f"image,label,{column}\n" + "".join(lines))
    assert _seen(open_images(spec)) == [(10, 1), (30, 1)]
    assert _seen(open_images(spec, split)) == [(20, 2)]


def test_flags_that_contradict_or_leave_rows_out(folder):
    spec = _csv(folder, "image,label,is_val,is_test\na.png,1,0,0\nb.png,2,1,1\n")
    with pytest.raises(ValueError, match="row 2 is of several splits by columns 'is_val', 'is_test': choose one"):
        open_images(spec)
    spec = _csv(folder, "image,label,train,val,test\na.png,1,1,0,0\nb.png,2,0,1,0\nc.png,3,0,0,0\n")
    assert _seen(open_images(spec)) == [(10, 1)]
    assert "passed over 1 unlabelled rows (column 'train, val, test')" in open_images(spec).remarks


@pytest.mark.parametrize("column", ["partition", "split"])
def test_splits_by_number_as_of_celeba(folder, column):
    spec = _csv(folder, f"image,label,{column}\na.png,1,0\nb.png,2,2\nc.png,3,1\n")
    seen = [_seen(open_images(spec, split)) for split in ("train", "val", "test")]
    assert seen == [[(10, 1)], [(30, 3)], [(20, 2)]]
    assert f"column {column!r}: 0 is taken for train, 1 for val, 2 for test" in open_images(spec).remarks


@pytest.mark.parametrize(
    ("column", "said"),
    [("split", "0,1,0"), ("fold", "0,1,2"), ("kfold", "3,4,5"), ("is_test", "1,2,3"), ("set", "u,v,u")],
)
def test_splits_that_are_not_understood_are_told(folder, column, said):
    lines = (f"{name},1,{value}\n" for name, value in zip(ABC, said.split(","), strict=True))
    images = open_images(_csv(folder, f"image,label,{column}\n" + "".join(lines)))
    assert len(images) == 3
    held = ", ".join(map(repr, sorted({*said.split(",")})))
    assert f"column {column!r} ({held}) was not understood as train, val and test: all rows are read" in images.remarks


def test_a_class_of_trains_is_no_split(folder):
    text = "image,bus,train,car\na.png,1,1,0\nb.png,0,1,1\nc.png,0,0,0\n"
    images = open_images(_csv(folder, text))
    assert images.class_names == ["bus", "train", "car"]
    assert images.labels.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert "'train' is taken for a class: rename it is_train if it says the split" in images.remarks[0]
    images = open_images(_csv(folder, text.replace("train", "is_train")))
    assert images.class_names == ["bus", "car"]
    assert _seen(open_images(_csv(folder, "image,ill,train\na.png,1,1\nb.png,0,0\nc.png,1,1\n"), "val")) == [(20, 0)]
    images = open_images(_csv(folder, "image,train\na.png,ICE\nb.png,TGV\nc.png,ICE\n"))
    assert _seen(images) == [(10, "ICE"), (20, "TGV"), (30, "ICE")]


def test_splits_that_are_none_or_odd(folder):
    spec = _csv(folder, "image,label,split\na.png,1,train\nb.png,2,query\n")
    with pytest.raises(ValueError, match="column 'split' says the split, but 'query' is none"):
        open_images(spec)
    spec = _csv(folder, "image,label,fold\na.png,1,0\nb.png,2,1\n")  # folds of a cross-validation
    assert len(open_images(spec)) == 2
    with pytest.raises(NoSuchSplit, match="add a column `split`"):
        open_images(spec, "val")
    spec = _csv(folder, "image,label,split\na.png,1,test\nb.png,2,test\n")
    images = open_images(spec)
    assert _seen(images) == [(10, 1), (20, 2)]
    assert "column 'split' says 'test' in all rows" in images.remarks
    spec = _csv(folder, "image,label,split,is_test\na.png,1,train,1\nb.png,2,test,0\n")
    with pytest.raises(ValueError, match="'split', 'is_test' say different splits"):
        open_images(spec)
    spec = _csv(folder, "image,label,split\na.png,1,val\nb.png,2,test\n")
    with pytest.raises(ValueError, match="but no train"):
        open_images(spec)


def test_images_named_twice_are_told(folder):
    text = "image,label,split\na.png,1,train\na.png,2,train\nb.png,1,train\nb.png,1,val\n"
    assert (
        "2 of 4 rows name an image that an earlier row names; 1 images have several labels in rows of their own; "
        "1 images are in several splits: the score is too good"
    ) in open_images(_csv(folder, text)).remarks


def test_ids_without_extension(tmp_path):
    _save(tmp_path, "train/0a1b.jpg", "train/22.05.png", "train/ff.PNG")
    spec = _csv(tmp_path, "id,breed\nff,pug\n0a1b,pug\n22.05,akita\n")
    images = open_images(spec)
    assert _seen(images) == [(30, "pug"), (10, "pug"), (20, "akita")]
    assert "images in train/ beside the table" in images.remarks
    _save(tmp_path, "train/ff.jpg")
    with pytest.raises(ValueError, match=r"'ff' may be ff.PNG, ff.jpg: write the extension"):
        open_images(spec)


def test_folders_beside_the_table(tmp_path):
    _save(tmp_path, "images/a.png", "images/b.png", "masks/b.png", "masks/a.png")
    text = "image,label\na.png,1\nb.png,2\n"
    assert _seen(open_images(_csv(tmp_path, text))) == [(10, 1), (20, 2)]
    (tmp_path / "images").rename(tmp_path / "bilder")
    with pytest.raises(ValueError, match=r"such as 'a.png' are in bilder/, masks/: write the folder into the names"):
        open_images(_csv(tmp_path, text))


def test_folders_of_the_splits(tmp_path):
    # the same names in both, with other pixels
    _save(tmp_path, "train/1.png", "train/2.png", "test/1.png", "test/2.png")
    text = "id,label,split\n1,x,train\n2,y,train\n1,y,test\n"
    assert _seen(open_images(_csv(tmp_path, text))) == [(10, "x"), (20, "y")]
    assert _seen(open_images(_csv(tmp_path, text), "test")) == [(30, "y")]
    text = "id,label\n2,x\n1,y\n"
    assert _seen(open_images(_csv(tmp_path, text, "train_labels.csv"))) == [(20, "x"), (10, "y")]
    assert _seen(open_images(_csv(tmp_path, text, "test.csv"))) == [(40, "x"), (30, "y")]
    with pytest.raises(ValueError, match="are in test/, train/: write the folder"):
        open_images(_csv(tmp_path, text))


def test_paths_relative_absolute_and_of_windows(tmp_path):
    _save(tmp_path, "x/a.png", "y/b.png")
    spec = _csv(tmp_path / "x", f"image,label\n{tmp_path}/x/a.png,1\n../y/b.png,2\n")
    assert _seen(open_images(spec)) == [(10, 1), (20, 2)]
    spec = _csv(tmp_path, "image,label\nx\\a.png,1\n.\\y\\b.png,2\n")
    assert _seen(open_images(spec)) == [(10, 1), (20, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("image,label\n", "no row"),
        ("image,label\na.png,1\nb,c.png,2\n", r"line 3: 3 values, but 2 in the first line: quote values that hold ','"),
        ("image,label\na.png\n", r"line 2: 1 values, but 2"),
        ('image,label\n"a.png,1\nb.png,2\n', r"line \d: .*write a quote inside"),
        ("image,label,label\na.png,1,2\n", "two columns are named 'label'"),
        ("a.png,1,x\nb.png,2,y\n", "3 columns without names"),
        ("image,path\na.png,b.png\n", "'image', 'path' may all hold images: name one with --image-field"),
        ("image,label,target\na.png,1,2\nb.png,1,1\n", "'label', 'target' may all hold labels: name one with --label-"),
        ("image,class_id,class\na.png,7,cat\nb.png,3,cat\n", "'class_id', 'class' may all hold labels"),
        ("u,v\n1,2\n", r"no column holds names of images \('u', 'v'\): name it with --image-field"),
        ("image,label\na.png,1\nb.png,\n", "1 of 2 images have a label"),
        ("image,label\na.png,0.5\n", "label '0.5' is no class"),
        ("image,label\n,1\n", "row 1 has no image"),
        ("image,label\nhttps://x.org/a.png,1\n", "holds addresses"),
        ("image,label\na.png\0,1\n", "is no path"),
        (b"\xff\xfea", "no table of text"),
        (bytes(range(256)) * 3, r"line|column|row|no path|look"),
    ],
)
def test_csv_refusals(folder, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_images(_csv(folder, text))
    assert "\n" not in str(error.value)


def test_missing_files_and_images(folder):
    with pytest.raises(FileNotFoundError, match="write csv:FILE"):
        open_images(f"csv:{folder}/none.csv")
    with pytest.raises(FileNotFoundError, match="write jsonl:FILE"):
        open_images("jsonl:")
    message = r"of 2 looked for, 1 are not there, the first is '.*/d.png': names are relative to .* subfolders were"
    with pytest.raises(FileNotFoundError, match=message):
        open_images(_csv(folder, "image,label\na.png,1\nd.png,2\n"))
    with pytest.raises(FileNotFoundError, match="with any extension of images"):
        open_images(_csv(folder, "id,label\nx,1\ny,2\n"))


def test_jsonl(folder):
    spec = _jsonl(folder, {"file_name": "b.png", "label": "dog"}, {"label": "cat", "file_name": "a.png", "more": [{}]})
    images = open_images(spec)
    assert _seen(images) == [(20, "dog"), (10, "cat")]
    assert "images in column 'file_name', labels in column 'label'" in images.remarks
    assert open_images(
        _jsonl(folder, {"image": "a.png", "label": 3}, {"image": "b.png", "label": 1.0})
    ).labels.tolist() == [3, 1]
    assert open_images(_jsonl(folder, {"image": "a.png", "label": True})).labels.tolist() == [1]
    spec = _jsonl(folder, {"image": "a.png", "y": 0, "split": "train"}, {"image": "c.png", "y": 5, "split": "test"})
    assert _seen(open_images(spec, "test")) == [(30, 5)]


@pytest.mark.parametrize("objects", [{"bbox": [[0, 0, 1, 1]], "categories": [1]}, [{"box": [0, 1]}], [[0, 1]]])
def test_jsonl_of_objects_has_no_labels(folder, objects):
    images = open_images(_jsonl(folder, {"image": "a.png", "objects": objects}, {"image": "b.png", "objects": objects}))
    assert _seen(images) == [(10, None), (20, None)]
    said = "images in column 'image', no column of labels; 'objects' holds objects, which are no labels"
    assert said in images.remarks
    rows = ({"image": name, "objects": objects, "kind": "x"} for name in ABC)
    assert open_images(_jsonl(folder, *rows)).class_names == ["x"]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([["x", "y"], ["z"], []], ["x", "y", "z"], [[1, 1, 0], [0, 0, 1], [0, 0, 0]]),
        ([[0, 2], [1], []], None, [[1, 0, 1], [0, 1, 0], [0, 0, 0]]),
        ([[0, 1], [1, 1], [0, -1]], None, [[0, 1], [1, 1], [0, -1]]),
        ([["x"], ["y"], ["x"]], ["x", "y"], [0, 1, 0]),
        ([[4], [0], [4]], None, [4, 0, 4]),
        ([[0, 1], [1, 0], [0, 1]], None, [1, 0, 1]),
    ],
)
def test_jsonl_with_several_labels(folder, labels, names, expected):
    images = open_images(_jsonl(folder, *({"image": n, "label": x} for n, x in zip(ABC, labels, strict=True))))
    assert images.class_names == names
    assert images.labels.tolist() == expected


@pytest.mark.parametrize(
    ("column", "cells", "names", "expected"),
    [
        ("label", ["cat|dog", "dog", "cat"], ["cat", "dog"], [[1, 1], [0, 1], [1, 0]]),
        ("label", ["cat;dog", "dog; bird", "cat"], ["bird", "cat", "dog"], [[0, 1, 1], [1, 0, 1], [0, 1, 0]]),
        ("tags", ["cat dog", "dog", "cat"], ["cat", "dog"], [[1, 1], [0, 1], [1, 0]]),
        ("Labels", ["cat, dog", "dog", "cat"], ["cat", "dog"], [[1, 1], [0, 1], [1, 0]]),
        ("label", ["['cat', 'x']", "['cat']", "[]"], ["cat", "x"], [[1, 1], [1, 0], [0, 0]]),
        ("label", ['["it\'s", "x, y"]', "['it\\'s']", "x"], ["it's", "x", "x, y"], [[1, 0, 1], [1, 0, 0], [0, 1, 0]]),
        ("label", ["[cat, sea lion]", "[cat]", "[sea lion]"], ["cat", "sea lion"], [[1, 1], [1, 0], [0, 1]]),
        ("label", ["[1, 0, 0]", "[0, 0, 1]", "[1, 0, 0]"], None, [0, 2, 0]),
        ("label", ["[1 1 0]", "[0 0 1]", "[0 0 0]"], None, [[1, 1, 0], [0, 0, 1], [0, 0, 0]]),
        ("label", ["0;2", "1", "2"], None, [[1, 0, 1], [0, 1, 0], [0, 0, 1]]),
        ("label", ["0|2", "1", "2"], None, [[1, 0, 1], [0, 1, 0], [0, 0, 1]]),
        ("label", ["1|0|0", "0|0|1", "0|1|1"], None, [[1, 0, 0], [0, 0, 1], [0, 1, 1]]),
        ("label", ["[0, 2]", "[1]", "[2,]"], None, [[1, 0, 1], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_several_labels_in_one_cell(folder, column, cells, names, expected):
    images = open_images(_jsonl(folder, *({"image": n, column: x} for n, x in zip(ABC, cells, strict=True))))
    assert images.class_names == names
    assert images.labels.tolist() == expected
    assert any(f"labels such as {cells[0]!r} are read as " in remark for remark in images.remarks)


@pytest.mark.parametrize(
    ("column", "cells", "told"),
    [
        ("label", ["animal|dog", "animal|cat", "animal|dog"], True),
        ("label", ["cat dog", "dog", "cat"], True),
        ("label", ["a;b", "c", "d"], True),
        ("label", ["[cat", "[unknown]", "dog"], True),
        ("labels", ["blue rose", "red rose", "blue daisy"], False),
        ("labels", ["sea lion", "sea horse", "horse"], False),
    ],
)
def test_names_that_may_be_several_are_one_class(folder, column, cells, told):
    images = open_images(_jsonl(folder, *({"image": n, column: x} for n, x in zip(ABC, cells, strict=True))))
    assert images.labels.shape == (3,)
    assert images.class_names == sorted({*cells})
    assert any("are read as one class" in remark for remark in images.remarks) == told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is empty"),
        ("[1]", r"line 1: expected a JSON object in one line, got '\[1\]'"),
        ("{", "line 1: expected a JSON object in one line: "),
        ("[" * 100_000, "line 1"),
        ('{"image": "a.png", "label": NaN}', "label nan is no class"),
        ('{"image": "a.png", "label": {}}', "label {} is no class"),
        ('{"image": "a.png", "label": "\\ud800"}', "label .* is no text"),
        ('{"image": "a.png", "label": ["\\ud800", "x"]}', "label .* is no text"),
        ('{"image": "a.png", "label": [1, "x"]}', "must hold numbers or texts"),
        ('{"image": "a.png", "label": [1, 1e300]}', "too many|no class"),
        ('{"image": "a.png", "label": [1, 1000000000000]}', "too many"),
        ('{"image": "a.png", "label": [1, -3]}', "label -3 is no class"),
        ('{"image": {"bytes": ""}, "label": 1}', "row 1 has {'bytes': ''} and no path"),
        ('{"image": "\\ud800.png", "label": 1}', "is no path of an image"),
        ('{"image": "a.png", "label": ' + "9" * 5000 + "}", "line 1|64 bits"),
    ],
)
def test_jsonl_refusals(folder, line, message):
    (folder / "x.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message) as error:
        open_images(f"jsonl:{folder}/x.jsonl")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=6)


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_equals_what_was_written(tmp_path, rows, delimiter, end):
    rows = [("image", "label"), *(row for row in rows if any(cell.strip() for cell in row))]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=end).writerows(rows)
    (tmp_path / "x.csv").write_bytes(buffer.getvalue().encode())
    if len(rows) == 1 or any(cell.strip().lower().endswith((".png", ".gif")) for cell in rows[0]):
        return
    columns = read_csv(tmp_path / "x.csv").columns
    assert columns == {
        "image": [image.strip() for image, _ in rows[1:]],
        "label": [label.strip() for _, label in rows[1:]],
    }


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    data=st.binary(max_size=80),
    kind=st.sampled_from(["csv", "jsonl"]),
    start=st.sampled_from([b"", b"image,label\na.png,1\n"]),
)
def test_any_bytes_are_a_table_or_one_line(tmp_path, data, kind, start):
    _save(tmp_path, "a.png")
    (tmp_path / "x").write_bytes(start + data)
    said = ""
    try:
        open_images(f"{kind}:{tmp_path}/x")
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    assert "\n" not in said


def test_a_table_of_many_rows_is_read_in_order(tmp_path):
    n = 3000
    _save(tmp_path, *ABC)
    picks = np.random.default_rng(0).integers(0, 3, n)
    lines = "".join(f"{ABC[k]},{k}\n" for k in picks)
    images = open_images(_csv(tmp_path, "image,label\n" + lines))
    assert images.labels.tolist() == picks.tolist()
    assert [int(images[i].image[0, 0, 0]) for i in (0, 1500, 2999)] == [10 * (picks[i] + 1) for i in (0, 1500, 2999)]
