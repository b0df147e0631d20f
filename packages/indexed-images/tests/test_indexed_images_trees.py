"""Folders and archives as people have them: splits, wrappers, strays, system folders, what is passed over."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexed_images import NoSuchSplit, open_images
from indexed_images._layout import split_of_name
from PIL import Image

SYSTEM = ("@eaDir", "$RECYCLE.BIN", "lost+found", ".Trash-1000", "System Volume Information", "__MACOSX", "#recycle")
SPLITS = ("train", "Train", "training", "val", "valid", "validation", "dev", "test", "TESTING", "unlabeled")


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


def write(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PNG)
    return f"folder:{root}"


def packed(file: Path, *paths: str) -> str:
    with tarfile.open(file, "w") as archive:
        for path in paths:
            info = tarfile.TarInfo(path)
            info.size = len(PNG)
            archive.addfile(info, io.BytesIO(PNG))
    return f"tar:{file}"


def both(tmp_path: Path, *paths: str) -> list[str]:
    return [write(tmp_path / "root", *paths), packed(tmp_path / "all.tar", *paths)]


def classes(spec: str, split: str = "train") -> list[str] | None:
    """The class of each image."""
    images = open_images(spec, split)
    return None if images.labels is None else [images.class_names[k] for k in images.labels]


def said(spec: str, split: str = "train") -> str:
    return "; ".join(open_images(spec, split).remarks)


def oracle(paths: list[str], split: str) -> tuple[dict[str, str | None], int] | None:
    """The rules of `_layout.py` on a flat list of paths: image -> class, and the number of all classes.

    None = no such split, or an error.
    """
    tree = [p.split("/") for p in paths if p.endswith(".png")]
    tree = [p for p in tree if not any(part.startswith(".") or part in SYSTEM for part in p)]

    def unwrapped(images, at):
        while images and all(len(p) > at + 1 for p in images):
            here = {p[at] for p in images}
            pictures = {name for name in here if name.lower() in ("images", "img")}
            if len(here) > 1 and (len(pictures) != 1 or here - pictures - {"masks", "labels"}):
                break
            images, at = [p for p in images if len(here) == 1 or p[at] in pictures], at + 1
        return images, at

    tree, at = unwrapped(tree, 0)
    kinds = {p[at]: split_of_name(p[at]) for p in tree if len(p) > at + 1}
    parts = {kind: [p for p in tree if len(p) > at + 1 and kinds[p[at]] == kind] for kind in kinds.values() if kind}
    all_here = all(len(p) > at + 1 for p in tree)
    names = {kind: [n for n, k in kinds.items() if k == kind] for kind in kinds.values()}
    with_train = "train" in names and len({*names} - {None}) > 1
    if with_train and any(len(those) > 1 for kind, those in names.items() if kind):
        return None
    inside = {n: {p[at + 1] for p in tree if p[at] == n and len(p) > at + 2} for n in kinds if all_here}
    kinds_in = {n: [split_of_name(m) for m in below] for n, below in inside.items()}
    deep = all(len(p) > at + 2 for p in tree) and all(len(set(k)) == len(k) and all(k) for k in kinds_in.values())
    if (
        not with_train
        and not ({*names} == {"val", "test"} and len(kinds) == 2)
        and deep
        and {"train"} < {k for ks in kinds_in.values() for k in ks}
    ):
        of_kind = {k: [p for p in tree if split_of_name(p[at + 1]) == k] for ks in kinds_in.values() for k in ks}
        chosen = split if split in of_kind else {"val": "test", "test": "val"}.get(split)
        return ({"/".join(p): p[at] for p in of_kind[chosen]}, len(inside)) if chosen in of_kind else None
    if with_train or (all_here and {*names} == {"val", "test"} and len(kinds) == 2):
        sets = {kind: (images, at + 1) for kind, images in parts.items()}
    else:
        sets = {"train": (tree, at)}
    chosen = split if split in sets or split == "train" else {"val": "test", "test": "val"}[split]
    if chosen not in sets or not tree:
        return None
    first = {}
    for kind, (images, start) in sorted(sets.items(), key=lambda item: item[0] != "train"):
        whole, (images, inner) = images, unwrapped(images, start)
        if kind != "train" and inner > start and images[0][start] in first.get("train", ()):
            images, inner = whole, start
        first[kind] = {p[inner] for p in images if len(p) > inner + 1}
        sets[kind] = (images, inner)
    flat = {kind: any(len(p) == start + 1 for p in images) for kind, (images, start) in sets.items()}
    images, start = sets[chosen]
    vocabulary = {name for kind in sets for name in first[kind] if kind == chosen or not flat[kind]}
    labelled = not flat[chosen]
    return {"/".join(p): p[start] if labelled else None for p in images}, len(vocabulary) if labelled else 0


names = st.sampled_from([*SPLITS, "cat", "dog", "owl", "images", "masks", *SYSTEM[:3], ".hidden"])
files = st.sampled_from(["a.png", "b.png", ".c.png", "notes.txt"])
trees = st.lists(st.builds(lambda folders, file: "/".join([*folders, file]), st.lists(names, max_size=4), files))


@settings(max_examples=100, deadline=None)
@given(paths=trees.map(lambda paths: sorted(set(paths))), split=st.sampled_from(["train", "val", "test"]))
def test_any_tree_is_read_by_the_rules(tmp_path_factory, paths, split):
    root = tmp_path_factory.mktemp("tree")
    expected = oracle(paths, split)
    specs = [write(root / "disk", *paths), packed(root / "all.tar", *paths)]
    (root / "disk").mkdir(exist_ok=True)
    for spec in specs:
        try:
            images = open_images(spec, split)
        except (ValueError, FileNotFoundError) as error:
            refused = str(error)
        else:
            refused = None
        assert (refused is not None) == (expected is None), (spec, refused)
        if refused is not None:
            assert "\n" not in refused
            continue
        where = f"{root / 'disk'}/" if spec.startswith("folder") else f"{root / 'all.tar'}::"
        labels = [None] * len(images) if images.labels is None else images.labels.tolist()
        shown = [None if k is None else images.class_names[k] for k in labels]
        found = dict(zip([images.name(i).removeprefix(where) for i in range(len(images))], shown, strict=True))
        assert (found, len(images.class_names or ())) == expected, spec
    shutil.rmtree(root)


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "dev", "test", "testing", "VALID", "val2017"])
@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training", "train2017", "training_set"])
def test_splits_by_any_of_their_names(tmp_path, train, held_out):
    for spec in both(tmp_path, f"{train}/a/0.png", f"{train}/b/1.png", f"{held_out}/b/2.png", f"{held_out}/c/3.png"):
        assert classes(spec) == ["a", "b"]
        assert classes(spec, "val") == ["b", "c"]
        assert open_images(spec).class_names == open_images(spec, "test").class_names == ["a", "b", "c"]
        assert (open_images(spec).place, open_images(spec, "val").place) == (f"{train}/", f"{held_out}/")


def test_class_names_that_hold_split_words():
    assert [split_of_name(name) for name in ("bullet_train", "test tube", "evaluate", "valley", "cat")] == [None] * 5
    assert [split_of_name(name) for name in ("Train", "val-images", "seg_test", "unlabelled")] == [
        *("train", "val", "test"),
        "",
    ]


def test_a_lone_wrapper_is_stripped_and_said(tmp_path):
    for spec in both(tmp_path, "dataset/train/a/0.png", "dataset/train/b/1.png", "dataset/val/a/2.png"):
        assert classes(spec) == ["a", "b"]
        assert classes(spec, "val") == ["a"]
        assert "all images lie in dataset/, which is no class" in said(spec)


def test_only_a_train_folder(tmp_path):
    for spec in both(tmp_path, "train/a/0.png", "train/b/1.png", "train/c/2.png"):
        assert classes(spec) == ["a", "b", "c"]
        assert "all images lie in train/, which is a split" in said(spec)
        with pytest.raises(NoSuchSplit):
            open_images(spec, "val")


def test_a_single_class_is_no_class(tmp_path):
    for spec in both(tmp_path, "cat/0.png", "cat/1.png"):
        assert classes(spec) is None
        assert "all images lie in cat/, which is no class" in said(spec)


def test_wrappers_inside_splits(tmp_path):
    paths = (
        "training_set/training_set/cats/0.png",
        "training_set/training_set/dogs/1.png",
        "test_set/test_set/cats/2.png",
    )
    for spec in both(tmp_path, *paths, "test_set/test_set/dogs/3.png"):
        assert classes(spec) == ["cats", "dogs"]
        assert classes(spec, "val") == ["cats", "dogs"]


def test_splits_inside_class_folders(tmp_path):
    for spec in both(tmp_path, "cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png"):
        assert classes(spec) == ["cat", "dog"]
        assert classes(spec, "val") == ["cat", "dog"]
        assert "splits lie inside the class folders" in said(spec)


def test_labels_of_another_tool_beside_images(tmp_path):
    spec = write(tmp_path, "images/train/a/0.png", "images/train/b/1.png", "images/val/a/2.png")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "0.txt").write_text("0 0.5 0.5 1 1")
    assert classes(spec) == ["a", "b"]
    assert classes(spec, "val") == ["a"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("TrainingSet", "TestSet"),
        ("trainset", "testset"),
        ("chest_xray_train", "chest_xray_test"),
        ("train_small", "val_small"),
        ("train-original", "holdout-original"),
        ("TRAIN_A", "TEST_A"),
    ],
)
def test_splits_whose_names_say_more(tmp_path, train, test):
    for spec in both(tmp_path, f"{train}/a/0.png", f"{train}/b/1.png", f"{test}/a/2.png", f"{test}/b/3.png"):
        assert classes(spec) == classes(spec, "val") == ["a", "b"]


def test_classes_that_look_like_splits_are_said(tmp_path):
    for spec in both(tmp_path, "trainA/0.png", "trainB/1.png", "testA/2.png", "testB/3.png"):
        assert "testA/, testB/, trainA/ and 1 more look like splits, but are read as classes" in said(spec)
    for spec in both(tmp_path / "other", "train_old/0.png", "test_new/1.png", "cat/2.png"):
        assert "test_new/, train_old/ look like splits, but are read as classes" in said(spec)


def test_masks_are_no_classes(tmp_path):
    for spec in both(
        tmp_path, *(f"{a}/{b}/{c}/x.png" for a in ("images", "masks") for b in ("train", "val") for c in "ab")
    ):
        assert classes(spec) == classes(spec, "val") == ["a", "b"]
        assert "passed over masks/ beside images/" in said(spec)
    for spec in both(
        tmp_path / "in", *(f"{b}/{a}/{c}.png" for a in ("images", "masks") for b in ("train", "val") for c in "ab")
    ):
        assert (classes(spec), len(open_images(spec))) == (None, 2)


def test_splits_inside_some_class_folders_are_said(tmp_path):
    for spec in both(tmp_path, "cat/train/0.png", "cat/test/1.png", "dog/2.png"):
        assert "train/ and other splits inside cat/ are read together" in said(spec)


def test_files_beside_wrappers_and_splits_are_counted(tmp_path):
    spec = write(
        tmp_path, "set/train/a/0.png", "set/train/b/1.png", "set/val/a/2.png", "x.cr2", "set/raw/1.dng", "set/y.dng"
    )
    assert "passed over 2 .dng (convert camera raw files), 1 .cr2 (convert camera raw files)" in said(spec)


def test_no_file_is_counted_twice(tmp_path):
    spec = write(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png", "val/notes.txt")
    assert "passed over 1 .txt" in said(spec, "val")


def test_what_lies_beside_splits_is_said(tmp_path):
    for spec in both(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png", "extra/x.png", "sheet.png"):
        assert classes(spec) == ["a", "b"]
        assert "passed over extra/, sheet.png beside train/" in said(spec)


def test_splits_that_no_one_can_tell_apart(tmp_path):
    for spec in both(tmp_path, "train/a/0.png", "val/a/1.png", "dev/a/2.png"):
        with pytest.raises(ValueError, match="dev/ and val/ all look like the val split"):
            open_images(spec)
    for spec in both(tmp_path / "held", "val/a/0.png", "test/a/1.png", "val/b/0.png"):
        with pytest.raises(ValueError, match=r"holds .*val/.* but no train/"):
            open_images(spec)
        assert classes(spec, "val") == ["a", "b"]


def test_a_stray_image_takes_the_labels_and_says_so(tmp_path):
    for spec in both(tmp_path, "train/a/0.png", "train/b/1.png", "train/contact_sheet.png", "val/a/2.png"):
        assert classes(spec) is None
        assert "train/contact_sheet.png stands beside the class folders, so there are no labels" in said(spec)


@pytest.mark.parametrize("name", [*SYSTEM, "@eadir", "Lost+Found"])
def test_system_folders_are_no_classes(tmp_path, name):
    for spec in both(tmp_path, "a/0.png", "b/1.png", f"{name}/2.png", f"a/{name}/3.png"):
        assert classes(spec) == ["a", "b"]
        assert f"2 folders of {'thumbnails' if 'ea' in name else 'the system'} ({name})" in said(spec)


def test_every_file_is_accounted_for(tmp_path, monkeypatch):
    monkeypatch.setattr("indexed_images._account.EXTENSIONS", (".png",))  # as if pillow-heif were not installed
    spec = write(tmp_path, "a/0.png", "b/1.png", "a/.DS_Store", "b/x.heic", "b/y.HEIC", "b/z.mp4", "b/README")
    (tmp_path / "empty").mkdir()
    assert said(spec) == (
        "passed over 2 .heic (install pillow-heif), 1 .mp4, 1 without extension, 1 hidden file; no image in empty/"
    )


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jif", ".JPG"])
def test_every_name_of_a_jpeg_is_read(tmp_path, suffix):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "a" / f"x{suffix}", "JPEG")
    images = open_images(f"folder:{tmp_path}")
    assert len(images) == 1
    assert images[0].image[:, 0, 0].tolist() == [0, 0, 254]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    spec, scandir = write(tmp_path, "a/0.png", "b/1.png"), os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"cannot read folder '.*/b' \(Permission denied\), and its images would"):
        open_images(spec)


def test_links_between_folders_are_accounted_for(tmp_path):
    spec = write(tmp_path, "a/0.png", "b/1.png")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert classes(spec) == ["a", "b"]
    assert "1 link to a folder that was read already" in said(spec)


def test_a_tar_of_class_tars(tmp_path):
    with tarfile.open(tmp_path / "outer.tar", "w") as outer:
        for name in ("n01", "n02"):
            packed(tmp_path / f"{name}.tar", "x.png", "y.png")
            outer.add(tmp_path / f"{name}.tar", f"{name}.tar")
    images = open_images(f"tar:{tmp_path / 'outer.tar'}")
    assert classes(f"tar:{tmp_path / 'outer.tar'}") == ["n01", "n01", "n02", "n02"]
    inner = open_images(f"tar:{tmp_path / 'n01.tar'}")
    assert all(images.bytes(i) == inner.bytes(0) == PNG for i in range(4))
