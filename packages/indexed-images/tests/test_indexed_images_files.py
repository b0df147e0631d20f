import os

import numpy as np
import pytest
from indexed_images import NoSuchSplit, open_images
from PIL import Image


def _save(path, value=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def _values(images):
    return [int(image[0, 0, 0]) for image, _, _ in images]


def test_flat_folder_has_no_labels_and_is_sorted(tmp_path):
    for value, name in enumerate(["b.png", "a.PNG", "ü ber.png", "10.png", "9.png"]):
        _save(tmp_path / name, value)
    images = open_images(f"folder:{tmp_path}")
    assert _values(images) == [3, 4, 1, 0, 2]  # by code point: 10 before 9, a before b
    assert images.labels is images.class_names is None
    assert images[0].label == -1
    assert images[0].image.shape == (3, 4, 6)


def test_class_folders_nested_at_will(tmp_path):
    _save(tmp_path / "zebra" / "z.png", 1)
    _save(tmp_path / "cat dog" / "deep" / "er" / "x.png", 2)
    _save(tmp_path / "cat dog" / "y.png", 3)
    _save(tmp_path / "猫" / "ñ.png", 4)
    (tmp_path / "zebra" / "notes.txt").write_text("no image")
    _save(tmp_path / ".hidden" / "h.png")
    _save(tmp_path / "zebra" / "._z.png")
    images = open_images(f"folder:{tmp_path}")
    assert images.class_names == ["cat dog", "zebra", "猫"]
    assert images.labels.tolist() == [0, 0, 1, 2]
    assert _values(images) == [2, 3, 1, 4]


def test_an_image_beside_the_class_folders_means_no_labels(tmp_path):
    _save(tmp_path / "cat" / "x.png")
    _save(tmp_path / "loose.png")
    images = open_images(f"folder:{tmp_path}")
    assert len(images) == 2
    assert images.labels is None


@pytest.mark.parametrize(("name", "other"), [("val", "test"), ("test", "val")])
def test_split_folders(tmp_path, name, other):
    _save(tmp_path / "train" / "b" / "1.png", 1)
    _save(tmp_path / "train" / "c" / "2.png", 2)
    _save(tmp_path / name / "c" / "3.png", 3)
    assert _values(open_images(f"folder:{tmp_path}")) == [1, 2]
    for split in (name, other):  # both names open the only held-out split
        images = open_images(f"folder:{tmp_path}", split)
        assert _values(images) == [3]
        assert images.class_names == ["b", "c"]
        assert images.labels.tolist() == [1]  # not 0, because the missing class does not shift the others


def test_val_and_test_are_told_apart_where_both_exist(tmp_path):
    for value, split in enumerate(["train", "val", "test"]):
        _save(tmp_path / split / "x.png", value)
    assert [_values(open_images(f"folder:{tmp_path}", s)) for s in ("train", "val", "test")] == [[0], [1], [2]]


def test_folder_without_splits(tmp_path):
    _save(tmp_path / "a" / "x.png")
    assert len(open_images(f"folder:{tmp_path}")) == 1
    with pytest.raises(NoSuchSplit, match="only 'train'"):
        open_images(f"folder:{tmp_path}", "val")
    with pytest.raises(NoSuchSplit, match="unknown split 'valid'"):
        open_images(f"folder:{tmp_path}", "valid")
    assert issubclass(NoSuchSplit, ValueError)


def test_links_are_followed_and_loops_end(tmp_path):
    _save(tmp_path / "elsewhere" / "x.png", 9)
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    _save(root / "own" / "y.png", 5)
    images = open_images(f"folder:{root}")
    assert images.class_names == ["linked", "own"]
    assert _values(images) == [9, 5]
    assert "1 link to a folder that was read already" in " ".join(images.remarks)


def test_nothing_to_open_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_images(f"folder:{tmp_path / 'missing'}")
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_images("folder:")
    with pytest.raises(FileNotFoundError, match="is empty") as caught:
        open_images(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)
    for name in ("a.txt", "b.txt", "c.nef", "README"):
        (tmp_path / name).write_text("")
    said = r"passed over 2 \.txt, .*1 \.nef \(convert camera raw files\).* \(known extensions: .*\.webp\)"
    with pytest.raises(FileNotFoundError, match=said):
        open_images(f"folder:{tmp_path}")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _save(tmp_path / "photos" / "x.png")
    assert len(open_images("folder:~/photos")) == 1


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_names_that_are_not_unicode(tmp_path):
    try:
        os.rename(_save(tmp_path / "x.png", 5), os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system refuses such names")
    assert _values(open_images(f"folder:{tmp_path}")) == [5]


def test_a_path_with_plus_that_is_there_is_one_folder(tmp_path):
    for value, name in enumerate(["a", "a+list", "a+folder:b", "b"], 1):
        _save(tmp_path / name / "x.png", value)
    assert _values(open_images(f"folder:{tmp_path}/a+list")) == [2]
    assert _values(open_images(f"folder:{tmp_path}/a+list+folder:{tmp_path}/b")) == [2, 4]
    assert _values(open_images(f"folder:{tmp_path}/a+folder:b")) == [3]
    assert _values(open_images(f"folder:{tmp_path}/a+folder:{tmp_path}/b")) == [1, 4]


def test_a_source_misspelt_after_a_plus(tmp_path):
    _save(tmp_path / "a" / "x.png")
    said = r"unknown source 'fodler' after \+ in spec 'folder:.*'; did you mean 'folder'\?"
    with pytest.raises(ValueError, match=said) as error:
        open_images(f"folder:{tmp_path}/a+fodler:{tmp_path}/a")
    assert "\n" not in str(error.value)


def test_a_pattern_of_flat_folders_tells_of_classes(tmp_path):
    for value, name in enumerate(["cat", "dog", "owl"], 1):
        _save(tmp_path / "pets" / name / "x.png", value)
    images = open_images(f"folder:{tmp_path}/pets/*")
    assert _values(images) == [1, 2, 3]
    assert images.labels is None
    said = f"(cat, dog, owl) are joined, without labels: folder:{tmp_path}/pets takes the folders for classes"
    assert any(remark.startswith("the images of 3 folders") and remark.endswith(said) for remark in images.remarks)
    for value, name in enumerate(["cat", "dog", "owl"], 1):
        _save(tmp_path / "pets" / name / "kind" / "x.png", value)
    assert not any("takes the folders for" in remark for remark in open_images(f"folder:{tmp_path}/pets/*").remarks)


def _list(tmp_path, text):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    return f"list:{tmp_path / 'list.txt'}"


def test_list_with_integers_keeps_its_order(tmp_path):
    _save(tmp_path / "x y" / "b 1.png", 1)
    _save(tmp_path / "a.png 2.png", 2)
    absolute = _save(tmp_path / "abs" / "c.JPG", 3)
    images = open_images(_list(tmp_path, f"\ufeffx y/b 1.png 7\r\n\na.png 2.png\t3\n{absolute} 0"))
    assert images.labels.tolist() == [7, 3, 0]
    assert images.class_names is None
    assert _values(images) == [1, 2, 3]


def test_list_with_names_and_without_labels(tmp_path):
    for k in range(3):
        _save(tmp_path / f"{k}.png", k)
    images = open_images(_list(tmp_path, "2.png sea lion\n0.png 12\n1.png sea lion\n"))
    assert images.class_names == ["12", "sea lion"]
    assert images.labels.tolist() == [1, 0, 1]
    images = open_images(_list(tmp_path, "2.png\n0.png"))
    assert images.labels is None
    assert _values(images) == [2, 0]


@pytest.mark.parametrize(
    ("text", "names", "labels", "said"),
    [
        ("0\t1\ta.png\n1\t0.000\tx y/b.png\n", None, [1, 0], "lines are index, label and path, as MXNet has them"),
        ("7 1 0 a.png\n3 1 1 c.png\n", None, [[1, 0], [1, 1]], "lines are index, label and path, as MXNet has them"),
        ("1 0 a.png\n1 1 c.png\n", None, [[1, 0], [1, 1]], "lines are label and path"),
        ("sea lion a.png\ncat c.png\n", ["cat", "sea lion"], [1, 0], "lines are label and path"),
        ("cat\ta.png\ndog\tx y\\b.png\n", ["cat", "dog"], [0, 1], "lines are label and path"),
        (
            "a.png\tcat|dog\nc.png\tdog\n",
            ["cat", "dog"],
            [[1, 1], [0, 1]],
            "labels such as 'cat|dog' are read as several",
        ),
    ],
)
def test_lists_with_the_label_first(tmp_path, text, names, labels, said):
    for value, name in enumerate(["a.png", "c.png", "x y/b.png"], 1):
        _save(tmp_path / name, value)
    images = open_images(_list(tmp_path, text))
    assert images.class_names == names
    assert images.labels.tolist() == labels
    assert _values(images) == [1, 3 if "b.png" in text else 2]
    assert said in " ".join(images.remarks)


def test_lists_written_on_windows(tmp_path):
    _save(tmp_path / "x" / "a.png", 1)
    _save(tmp_path / "y" / "z" / "b.png", 2)
    images = open_images(_list(tmp_path, "x\\a.png cat\r\ny\\z\\b.png dog\r\n"))
    assert _values(images) == [1, 2]
    assert images.class_names == ["cat", "dog"]
    _save(tmp_path / "x\\a.png", 3)  # a backslash in a name
    _save(tmp_path / "y\\z\\b.png", 4)
    assert _values(open_images(f"list:{tmp_path / 'list.txt'}")) == [3, 4]


def test_lists_of_files_that_are_not_there(tmp_path):
    _save(tmp_path / "a.png")
    for text in ("a.png 1\nb.png 2\n", "0\t1\tb.png\n", "cat b.png\n", "x\\a.png\n"):
        with pytest.raises(FileNotFoundError, match=r"1 are not there, .*: a line is `path\[ label\]`, and") as error:
            open_images(_list(tmp_path, text))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"'1 a.png' is a label and a path, but 'b.png' is a path alone"):
        open_images(_list(tmp_path, "1 a.png\nb.png\n"))


def test_list_refusals(tmp_path):
    with pytest.raises(ValueError, match="1 of 2 images have a label, image 2 has none"):
        open_images(_list(tmp_path, "a.png 1\nb.png"))
    with pytest.raises(ValueError, match="line 2: expected"):
        open_images(_list(tmp_path, "a.png 1\nb.tiff2 3"))
    with pytest.raises(ValueError, match="names no image"):
        open_images(_list(tmp_path, "\n \n"))
    with pytest.raises(FileNotFoundError, match="no list file"):
        open_images(f"list:{tmp_path / 'no.txt'}")
    with pytest.raises(NoSuchSplit):
        open_images(_list(tmp_path, "a.png"), "val")


def test_bytes_are_the_file(tmp_path):
    path = _save(tmp_path / "x.png", 3)
    assert open_images(f"folder:{tmp_path}").bytes(0) == path.read_bytes()
    assert open_images(_list(tmp_path, "x.png")).bytes(np.int64(0)) == path.read_bytes()
