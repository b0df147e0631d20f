"""Labels in lists and beside the images of archives, and one vocabulary over two sets."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from indexed_images import OpenError, open_images, open_train_and_test
from PIL import Image


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def listed(tmp_path: Path, *labels: str, name: str = "list.txt") -> str:
    for k in range(len(labels)):
        (tmp_path / f"{k}.png").write_bytes(png(k))
    (tmp_path / name).write_text("".join(f"{k}.png {label}\n" for k, label in enumerate(labels)))
    return f"list:{tmp_path / name}"


def packed(file: Path, members: dict[str, bytes | str]) -> str:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return f"tar:{file}"


def folder(root: Path, *paths: str) -> str:
    for k, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(k))
    return f"folder:{root}"


def names(images) -> list[str] | None:
    return None if images.labels is None else [images.class_names[k] for k in images.labels]


def test_numbers_are_numbers(tmp_path):
    images = open_images(listed(tmp_path, "0.0", "10.0", "2.0", "1e1", "+2"))
    assert images.labels.tolist() == [0, 10, 2, 10, 2]
    assert images.class_names is None


def test_digits_with_zeros_before_them_are_names(tmp_path):
    images = open_images(listed(tmp_path, "08", "9", "10"))
    assert names(images) == ["08", "9", "10"]
    a = folder(tmp_path / "A", "08/0.png", "09/1.png", "10/2.png")
    _, test, remarks = open_train_and_test(a, listed(tmp_path, "10", "09", "08"))
    assert (names(test), remarks) == (["10", "09", "08"], ())
    _, test, remarks = open_train_and_test(
        listed(tmp_path, "10", "042", "x"), listed(tmp_path, "042", "10", name="t.txt")
    )
    assert (names(test), "count as wrong" in " ".join(remarks)) == (["042", "10"], False)


def test_numbers_with_a_point_match_names(tmp_path):
    train, test, _ = open_train_and_test(listed(tmp_path, "1.0", "2", "x"), listed(tmp_path, "2.0", "1", name="t.txt"))
    assert (names(train), names(test)) == (["1", "2", "x"], ["2", "1"])


@pytest.mark.parametrize("missing", ["-1", "-1.0", "nan", "NaN", "NA", "N/A", "None", "null", "<NA>"])
def test_a_missing_label_is_no_class(tmp_path, missing):
    for others in (("cat", "dog"), ("0", "1")):
        with pytest.raises(ValueError, match="label all or none"):
            open_images(listed(tmp_path, others[0], missing, others[1]))
    assert open_images(listed(tmp_path, missing, missing)).labels is None


def test_names_that_are_not_unicode_stay_apart(tmp_path):
    for name in (b"caf\xe9", b"caf\xe8", b"th\xe9"):
        (tmp_path / os.fsdecode(name)).mkdir()
        (tmp_path / os.fsdecode(name) / "0.png").write_bytes(png())
    train, test, _ = open_train_and_test(f"folder:{tmp_path}", f"folder:{tmp_path}")
    assert (train.class_names, names(test)) == (["caf\\xe8", "caf\\xe9", "th\\xe9"],) * 2


def test_accents_of_a_mac_are_the_same_names(tmp_path):
    a = folder(tmp_path / "A", "k\u00f6t/0.png", "x/1.png")
    _, test, remarks = open_train_and_test(a, folder(tmp_path / "B", "ko\u0308t/0.png", "x/1.png"))
    assert (names(test), remarks) == (["k\u00f6t", "x"], ())


def test_rows_of_numbers_are_several_labels(tmp_path):
    for labels in (("1 0 1", "0 0 1", "0 -1 0"), ("1,0,1", "0, 0, 1", "0,-1,0")):
        images = open_images(listed(tmp_path, *labels))
        assert images.labels.tolist() == [[1, 0, 1], [0, 0, 1], [0, -1, 0]]


def test_rows_with_a_single_one_are_classes(tmp_path):
    images = open_images(listed(tmp_path, "0 0 1", "1 0 0", "0 1 0"))
    assert images.labels.tolist() == [2, 0, 1]
    assert "every row of 3 labels holds a single 1" in images.remarks[0]


def test_minus_one_is_no_label(tmp_path):
    assert open_images(listed(tmp_path, "-1", "-1")).labels is None
    with pytest.raises(ValueError, match=r"1 of 3 labels are -1 \(no label\): label all or none"):
        open_images(listed(tmp_path, "0", "-1", "3"))
    with pytest.raises(ValueError, match=r"label -2 is negative"):
        open_images(listed(tmp_path, "0", "-2", "3"))


@pytest.mark.parametrize("label", ["18446744073709551615", "1e30", "0.5"])
def test_numbers_that_are_no_class(tmp_path, label):
    with pytest.raises(ValueError, match=r"does not fit 64 bits|is no class"):
        open_images(listed(tmp_path, "0", label))


def test_rows_of_other_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'1 0' is a row of 2 numbers"):
        open_images(listed(tmp_path, "1 0", "1 0 1"))
    with pytest.raises(ValueError, match=r"'1 0' is a row of 2 numbers"):
        open_images(listed(tmp_path, "1 0", "sea lion"))
    with pytest.raises(ValueError, match=r"rows of 2 labels must hold 1 .* got 5"):
        open_images(listed(tmp_path, "1 0", "5 0"))


def test_names_may_hold_spaces_and_digits(tmp_path):
    assert names(open_images(listed(tmp_path, "sea lion", "no 7", "7 up"))) == ["sea lion", "no 7", "7 up"]


def test_names_with_dots_keep_their_own_labels(tmp_path):
    members = {}
    for k in range(6):
        members[f"cam1.2021-05-0{k}.jpg"] = png(k)
        members[f"cam1.2021-05-0{k}.cls"] = str(k % 2)
    assert open_images(packed(tmp_path / "x.tar", members)).labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_longest_stem_wins(tmp_path):
    members = {"a.left.png": png(), "a.right.png": png(), "a.cls": "cat", "a.left.cls": "dog"}
    assert names(open_images(packed(tmp_path / "x.tar", members))) == ["dog", "cat"]


def test_two_label_files_of_one_name_are_an_error(tmp_path):
    packed(tmp_path / "x.tar", {"a.png": png(), "a.cls": "0"})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        info = tarfile.TarInfo("a.cls")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))
    with pytest.raises(ValueError, match=r"x\.tar: two members are called 'a\.cls' and differ"):
        open_images(f"tar:{tmp_path / 'x.tar'}")


@pytest.mark.parametrize("field", ["label", "cls"])
def test_labels_in_json_members(tmp_path, field):
    members = {f"{k}.png": png(k) for k in range(4)}
    members |= {f"{k}.json": json.dumps({"width": 2, field: k % 2}) for k in range(4)}
    images = open_images(packed(tmp_path / "x.tar", members))
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert images.remarks == ("labels are those of the .json members",)


def test_a_json_field_that_is_named(tmp_path):
    members = {f"{k}.png": png(k) for k in range(2)} | {f"{k}.json": json.dumps({"kind": "ab"[k]}) for k in range(2)}
    spec = packed(tmp_path / "x.tar", members)
    images = open_images(spec)
    assert images.labels is None
    assert (
        "0.json has no field 'label' or 'cls', only 'kind'; name it as label_field (--label-field)" in images.remarks[0]
    )
    assert names(open_images(spec, label_field="kind")) == ["a", "b"]
    with pytest.raises(ValueError, match=r"0\.json has no field 'species', only 'kind'"):
        open_images(spec, label_field="species")


def test_json_lists_are_several_labels(tmp_path):
    members = {f"{k}.png": png(k) for k in range(2)}
    members |= {"0.json": '{"label": [1, 1, 0]}', "1.json": '{"label": [0, 0, 1]}'}
    assert open_images(packed(tmp_path / "x.tar", members)).labels.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_labels_in_txt_members_but_no_captions(tmp_path):
    images = {f"{k}.png": png(k) for k in range(6)}
    labels = images | {f"{k}.txt": f"{'ab'[k % 2]}\n" for k in range(6)}
    assert names(open_images(packed(tmp_path / "x.tar", labels))) == ["a", "b"] * 3
    captions = images | {f"{k}.txt": f"a photo of number {k}" for k in range(6)}
    found = open_images(packed(tmp_path / "y.tar", captions))
    assert found.labels is None
    assert found.remarks == ("the .txt members hold 6 different texts, which are no classes",)


def test_cls_beside_captions_and_json(tmp_path):
    members = {f"{k}.png": png(k) for k in range(2)} | {f"{k}.txt": f"caption {k}" for k in range(2)}
    members |= {f"{k}.cls": "ba"[k] for k in range(2)} | {f"{k}.json": '{"label": 3}' for k in range(2)}
    assert names(open_images(packed(tmp_path / "x.tar", members))) == ["b", "a"]


def test_images_without_a_label_file(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 2 images have a \.cls member, 1\.png has none: label all or none"):
        open_images(packed(tmp_path / "x.tar", {"0.png": png(), "1.png": png(), "0.cls": "0"}))
    found = open_images(packed(tmp_path / "y.tar", {"a/0.png": png(), "b/1.png": png(), "a/0.json": '{"label": 0}'}))
    assert names(found) == ["a", "b"]
    assert found.remarks == ("only 1 of 2 images have a .json member, so these are no labels",)


def test_label_files_that_fit_no_image_are_said(tmp_path):
    found = open_images(packed(tmp_path / "x.tar", {"img_1.png": png(), "img_2.png": png(1), "lab_1.cls": "0"}))
    assert (found.labels, found.remarks) == (None, ("1 .cls members fit no image by their names",))
    members = {"a.png": png(), "a.mask.png": png(1), "a.cls": "0", "b.png": png(), "b.cls": "1"}
    assert (
        "1 images share their .cls member with another image"
        in open_images(packed(tmp_path / "y.tar", members)).remarks[0]
    )
    with pytest.raises(ValueError, match=r"z\.tar: 'a\.json' is not JSON"):
        open_images(packed(tmp_path / "z.tar", {"a.png": png(), "a.json": "{"}))


def test_a_tar_from_windows(tmp_path):
    assert names(open_images(packed(tmp_path / "x.tar", {"cat\\0.png": png(), "dog\\1.png": png()}))) == ["cat", "dog"]


def test_a_fingerprint_changes_with_the_files(tmp_path):
    spec = folder(tmp_path, "a/0.png", "b/1.png")
    first = open_images(spec).fingerprint()
    assert open_images(spec).fingerprint() == first
    assert len({first, open_images(spec, alpha="black").fingerprint()}) == 2
    (tmp_path / "a" / "0.png").write_bytes(png(77))
    assert open_images(spec).fingerprint() != first


def test_classes_are_matched_by_name(tmp_path):
    a = folder(tmp_path / "A", "cat/0.png", "dog/1.png", "owl/2.png")
    b = folder(tmp_path / "B", "dog/1.png", "owl/2.png")
    train, test, remarks = open_train_and_test(a, b)
    assert (names(train), names(test)) == (["cat", "dog", "owl"], ["dog", "owl"])
    assert test.labels.tolist() == [1, 2]
    assert remarks == ("only among the training images: cat",)
    train, test, remarks = open_train_and_test(b, a)
    assert (names(train), names(test)) == (["dog", "owl"], ["cat", "dog", "owl"])
    assert train.labels.tolist() == [0, 1]
    assert remarks == ("only among the test images: cat; these 1 images count as wrong",)


def test_a_list_and_a_folder_share_their_classes(tmp_path):
    a = folder(tmp_path / "A", "cat/0.png", "dog/1.png", "owl/2.png")
    train, test, _ = open_train_and_test(a, listed(tmp_path, "owl", "cat"))
    assert (names(test), train.class_names) == (["owl", "cat"], test.class_names)


def test_numbers_match_names_that_are_numbers(tmp_path):
    a = folder(tmp_path / "A", "0/0.png", "10/1.png", "2/2.png")
    _, test, _ = open_train_and_test(a, listed(tmp_path, "10", "0", "2"))
    assert names(test) == ["10", "0", "2"]


def test_sets_without_a_common_class(tmp_path):
    a = folder(tmp_path / "A", "cat/0.png", "dog/1.png")
    b = folder(tmp_path / "B", "cats/0.png", "dogs/1.png")
    with pytest.raises(OpenError, match=r"no class in common: cat, dog in folder:.*A, cats, dogs in folder:.*B"):
        open_train_and_test(a, b)
    with pytest.raises(OpenError, match=r"are names \(cat, dog\), those of list:.* are numbers \(0, 1\)"):
        open_train_and_test(a, listed(tmp_path, "1", "0"))
    with pytest.raises(OpenError, match=r"have several labels each, those of folder:.*A have one"):
        open_train_and_test(a, listed(tmp_path, "1 1", "0 1"))


def test_codes_become_small_numbers(tmp_path):
    train, test, _ = open_train_and_test(
        listed(tmp_path, "20231105", "7", "20231105"), listed(tmp_path, "7", "20231105", name="test.txt")
    )
    assert (names(train), names(test)) == (["20231105", "7", "20231105"], ["7", "20231105"])
    assert train.labels.max() == 1


def test_a_single_class_is_never_scored(tmp_path):
    train, _, remarks = open_train_and_test(listed(tmp_path, "cat", "cat"), listed(tmp_path, "cat", name="t.txt"))
    assert train.labels is None
    assert "all images are of one class, cat, so there are no labels" in remarks


def test_training_images_in_the_test_set_are_said(tmp_path):
    a = folder(tmp_path / "A", "cat/0.png", "dog/1.png")
    (tmp_path / "B").symlink_to(tmp_path / "A")
    assert (
        "2 of the 2 test images are training images, too"
        in open_train_and_test(a, f"folder:{tmp_path / 'B'}").remarks[0]
    )


def test_a_split_that_links_to_another_is_said(tmp_path):
    folder(tmp_path, "train/cat/0.png", "train/dog/1.png")
    (tmp_path / "val").symlink_to(tmp_path / "train")
    assert "2 of the 2 test images are training images" in open_train_and_test(f"folder:{tmp_path}").remarks[0]


def test_the_summary_says_what_was_understood(tmp_path):
    spec = folder(tmp_path, "train/cat/0.png", "train/dog/1.png", "train/owl/2.png", "valid/cat/3.png")
    assert open_train_and_test(spec).summary == "3 images, 3 classes (cat, dog, ...), 1 for the score from valid/"
    assert open_train_and_test("digits").summary == "1,438 images, 10 classes (0, 1, ...), 359 for the score"


def test_multi_label_columns_are_matched_by_name(tmp_path):
    for name, order, rows in (("a", ["cat", "dog"], [[1, 1], [0, 1]]), ("b", ["dog", "cat"], [[0, 1], [1, 1]])):
        images = np.zeros((2, 4, 4), np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.array(rows), class_names=order)
    train, test, _ = open_train_and_test(f"npz:{tmp_path}/a.npz", f"npz:{tmp_path}/b.npz")
    assert (train.class_names, test.class_names) == (["cat", "dog"], ["cat", "dog"])
    assert test.labels.tolist() == [[1, 0], [1, 1]]
    with pytest.raises(OpenError):  # of other columns
        open_train_and_test(listed(tmp_path, "1 1 0", "0 1 1"), listed(tmp_path, "1 1", "0 0", name="t.txt"))


def test_sources_are_joined_by_their_class_names(tmp_path):
    a = folder(tmp_path / "A", "cat/0.png", "dog/1.png")
    b = folder(tmp_path / "B", "ant/0.png", "dog/1.png")
    joined = open_images(f"{a}+{b}")
    assert names(joined) == ["cat", "dog", "ant", "dog"]
    assert [int(joined[i].image.max()) for i in range(4)] == [0, 1, 0, 1]
    assert joined.name(3).endswith("B/dog/1.png")


def test_a_pattern_joins_what_it_matches(tmp_path):
    folder(tmp_path / "d1", "cat/0.png", "dog/1.png")
    folder(tmp_path / "d2", "ant/0.png", "dog/1.png")
    assert names(open_images(f"folder:{tmp_path}/d*")) == ["cat", "dog", "ant", "dog"]
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        open_images(f"folder:{tmp_path}/e*")


def test_a_pattern_of_splits_is_not_joined(tmp_path):
    for k, name in enumerate(("labels_train.csv", "labels_test.csv")):
        folder(tmp_path, f"{k}.png", f"{k}b.png")
        (tmp_path / name).write_text(f"file,label\n{k}.png,cat\n{k}b.png,dog\n")
    for spec in (f"csv:{tmp_path}/labels_*.csv", f"csv:{tmp_path}/*.csv"):
        train, test, remarks = open_train_and_test(spec)
        assert ([train.name(0)[-5:], test.name(0)[-5:]], len(train), len(test)) == (["0.png", "1.png"], 2, 2)
        assert "the val split is labels_test.csv" not in remarks
        assert "the test split is labels_test.csv" in remarks
    for name in ("train", "val"):
        folder(tmp_path / "set" / name, "cat/0.png", "dog/1.png")
    assert len(open_images(f"folder:{tmp_path}/set/*")) == len(open_images(f"folder:{tmp_path}/set/*", "val")) == 2
    (tmp_path / "labels_more.csv").write_text("file,label\n0.png,cat\n")
    with pytest.raises(ValueError, match=r"matches files of splits and also '.*labels_more\.csv'"):
        open_images(f"csv:{tmp_path}/labels_*.csv")


def test_joined_arrays_have_one_range(tmp_path):
    for name, high in (("a", 4095), ("b", 65535)):
        np.savez(tmp_path / f"{name}.npz", images=np.linspace(0, high, 48).reshape(3, 4, 4).astype(np.uint16))
    with pytest.raises(ValueError, match=r"pixels have different ranges \(0 to 4095 in npz:.*, 0 to 65535 in npz:"):
        open_images(f"npz:{tmp_path}/a.npz+npz:{tmp_path}/b.npz")
    assert len(open_images(f"npz:{tmp_path}/a.npz+npz:{tmp_path}/b.npz", pixel_range=(0, 65535))) == 6


def test_joined_sources_with_and_without_labels(tmp_path):
    a, b = folder(tmp_path / "A", "cat/0.png", "dog/1.png"), folder(tmp_path / "B", "0.png")
    joined = open_images(f"{a}+{b}")
    assert joined.labels is None
    assert f"{b} has no labels, so the joined images have none" in joined.remarks


def test_joined_sources_take_the_splits_they_have(tmp_path):
    a = folder(tmp_path / "A", "train/cat/0.png", "train/dog/1.png", "val/cat/2.png")
    b = folder(tmp_path / "B", "ant/0.png", "dog/1.png")
    train, test, _ = open_train_and_test(f"{a}+{b}")
    assert (len(train), names(test)) == (4, ["cat"])
