"""Folders, lists and archives as people have them, on the command lines: the right score, or a line that says why."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from classify.cli import main as classify
from PIL import Image
from pretrain.cli import main as pretrain
from small_run import SMALL
from sobel_resnet import resnet18, save_backbone

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_backbone(resnet18(stem="cifar", width=0.125, seed=3), path)
    return path


def picture(name: str, i: int, scale: int = 255) -> np.ndarray:
    """A pattern of the class in noise, (16, 16) whole numbers up to `scale`."""
    pattern = np.kron(np.random.default_rng(CLASSES.index(name)).random((4, 4)), np.ones((4, 4)))
    noise = np.random.default_rng([CLASSES.index(name), i]).normal(0, 0.05, (16, 16))
    return (np.clip(pattern + noise, 0, 1) * scale).astype(np.uint8 if scale == 255 else np.uint16)


def write(root: Path, name: str, n: int, first: int = 0, scale: int = 255) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        Image.fromarray(picture(name, i, scale)).save(root / f"{i:03}.png")


def tree(root: Path, train: str, held_out: str | None = None, scale: int = 255) -> str:
    """Six images a class for training, two to test."""
    for name in CLASSES:
        write(root / train / name, name, 6, 0, scale)
        if held_out:
            write(root / held_out / name, name, 2, 6, scale)
    return f"folder:{root}"


def knn(capsys: pytest.CaptureFixture[str], weights: Path, out: Path, *more: str) -> tuple[float, str]:
    """kNN top-1 of `classify knn --k 1`, in percent, and what it printed."""
    own = ["--weights", str(weights), "--k", "1", "--size", "16", "--cache", "", "--device", "cpu", "--workers", "0"]
    assert classify(["knn", *own, "--out", str(out), *more]) == 0
    result = json.loads((out / "results.json").read_text())["results"]["knn"]["k"]["1"]["top1"]
    return result, " ".join(capsys.readouterr().out.split())


def refused(capsys: pytest.CaptureFixture[str], weights: Path, *more: str) -> str:
    assert classify(["knn", "--weights", str(weights), "--size", "16", "--cache", "", "--device", "cpu", *more]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_a_test_set_with_fewer_classes(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    tree(tmp_path, "A")
    for name in CLASSES[1:]:
        write(tmp_path / "B" / name, name, 6)
    a, b = f"folder:{tmp_path / 'A'}", f"folder:{tmp_path / 'B'}"
    score, said = knn(capsys, weights, tmp_path / "ab", "--data", a, "--test", b)
    assert score == 100.0
    assert f"{a}: 18 images, 3 classes (cat, dog, ...), 12 for the score from {b}" in said
    assert "only among the training images: cat" in said
    score, said = knn(capsys, weights, tmp_path / "ba", "--data", b, "--test", a)
    assert score == pytest.approx(200 / 3)
    assert "only among the test images: cat; these 6 images count as wrong" in said


def test_lists_with_names_share_their_classes(
    capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path
) -> None:
    tree(tmp_path, "A")
    (tmp_path / "train.txt").write_text("".join(f"A/{c}/{i:03}.png {c}\n" for c in CLASSES for i in range(4)))
    (tmp_path / "test.txt").write_text("".join(f"A/{c}/{i:03}.png {c}\n" for c in CLASSES[1:] for i in (4, 5)))
    lists = ("--data", f"list:{tmp_path / 'train.txt'}", "--test", f"list:{tmp_path / 'test.txt'}")
    assert knn(capsys, weights, tmp_path / "run", *lists)[0] == 100.0


def test_no_class_in_common_is_an_error(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    a = tree(tmp_path, "A", "B")
    for name in CLASSES:
        (tmp_path / "B" / name).rename(tmp_path / "B" / f"{name}s")
    said = refused(capsys, weights, "--data", f"{a}/A", "--test", f"{a}/B")
    assert f"--test {a}/B: no class in common: cat, dog, owl in {a}/A, cats, dogs, owls in {a}/B" in said


@pytest.mark.parametrize(
    ("train", "held_out"),
    [("train", "valid"), ("Train", "validation"), ("TRAIN", "dev"), ("training", "testing"), ("set/train", "set/val")],
)
def test_splits_are_no_classes(
    capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path, train: str, held_out: str
) -> None:
    spec = tree(tmp_path / "x", train, held_out)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "x", ".")
    for k, data in enumerate((spec, f"tar:{tmp_path / 'x.tar'}")):
        score, said = knn(capsys, weights, tmp_path / f"run{k}", "--data", data)
        assert score == 100.0
        assert f"18 images, 3 classes (cat, dog, ...), 6 for the score from {held_out.split('/')[-1]}/" in said


def test_there_is_no_score_over_one_class(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat", "cat", 6)
    write(tmp_path / "val" / "cat", "cat", 3)
    spec = f"folder:{tmp_path}"
    assert (
        "no labels there, and a benchmark needs them (all images of train/ lie in cat/, which is no class"
        in refused(capsys, weights, "--data", spec)
    )


def test_12_bit_images_score_as_their_8_bit_copies(
    capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path
) -> None:
    spec = tree(tmp_path / "x", "train", "val", scale=4095)
    score, said = knn(capsys, weights, tmp_path / "auto", "--data", spec)
    assert score == 100.0
    assert "0 is taken as black, 4095 as white" in said
    score, said = knn(capsys, weights, tmp_path / "given", "--data", spec, "--pixel-range", "0,4095")
    assert (score, "taken as black" in said) == (100.0, False)
    assert "--pixel-range: expected auto or LOW,HIGH such as 0,4095, got '4095'" in refused(
        capsys, weights, "--data", spec, "--pixel-range", "4095"
    )


def test_webdataset_names_with_dots(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    for shard, numbers in (("train", range(8)), ("test", range(8, 12))):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for i in numbers:
                buffer = io.BytesIO()
                Image.fromarray(picture(CLASSES[i % 2], i)).save(buffer, "PNG")
                for suffix, data in (("png", buffer.getvalue()), ("json", b'{"label": %d}' % (i % 2))):
                    info = tarfile.TarInfo(f"cam1.2021-05-{i:02}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    shards = ("--data", f"tar:{tmp_path / 'train.tar'}", "--test", f"tar:{tmp_path / 'test.tar'}")
    score, said = knn(capsys, weights, tmp_path / "run", *shards)
    assert score == 100.0
    assert "8 images, 2 classes (0, 1), 4 for the score" in said


def test_pretrain_says_what_it_understood(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexed_images._account.EXTENSIONS", (".png",))  # as if pillow-heif were not installed
    tree(tmp_path / "x", "Train", "valid")
    (tmp_path / "x" / "Train" / "@eaDir").mkdir()
    write(tmp_path / "x" / "Train" / "@eaDir", "cat", 1)
    (tmp_path / "x" / "Train" / "cat" / "phone.heic").write_bytes(b"")
    own = [a for a in SMALL if a not in ("--val", "shapes:n_val=60", "shapes:n=120", "--data")]
    arguments = ["odc", *own, "--data", f"folder:{tmp_path / 'x'}", "--max-steps", "1", "--out", str(tmp_path / "run")]
    assert pretrain(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "18 images, 3 classes (cat, dog, ...), 6 for the score from valid/" in said
    assert "passed over 1 .heic (install pillow-heif), 1 folder of thumbnails (@eaDir)" in said


def test_pretrain_matches_the_classes_of_val(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tree(tmp_path, "A")
    for name in CLASSES[1:]:
        write(tmp_path / "B" / name, name, 6)
    own = [a for a in SMALL if a not in ("--val", "shapes:n_val=60", "shapes:n=120", "--data")]
    sets = ["--data", f"folder:{tmp_path / 'A'}", "--val", f"folder:{tmp_path / 'B'}"]
    assert pretrain(["odc", *own, *sets, "--max-steps", "1", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert float(re.search(r"random network: ([\d.]+) %", said)[1]) > 60  # type: ignore[index]  # 20 neighbours of 18
    sets[3] = f"folder:{tmp_path / 'A' / 'cat'}"
    assert pretrain(["odc", *own, *sets, "--out", str(tmp_path / "none")]) == 2
    assert "no labels there, one an image, and the kNN score needs them" in capsys.readouterr().err


def test_a_picture_beyond_the_limit_of_pixels(
    capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    spec = tree(tmp_path, "train", "val")
    assert "raise it with max_pixels, on a command line --max-pixels" in refused(capsys, weights, "--data", spec)
    assert knn(capsys, weights, tmp_path / "run", "--data", spec, "--max-pixels", "256")[0] == 100.0


def test_cached_features_follow_the_files(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    spec = tree(tmp_path / "x", "train", "val")
    cached = ["--data", spec, "--cache", str(tmp_path / "cache")]
    assert knn(capsys, weights, tmp_path / "first", *cached)[0] == 100.0
    for name, other in zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True):
        write(tmp_path / "x" / "val" / name, other, 2, 6)  # the same names, other pictures
    assert knn(capsys, weights, tmp_path / "second", *cached)[0] == 0.0


def test_pretrain_on_several_labels_an_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tree(tmp_path, "A")
    rows = [f"A/{name}/{i:03}.png,{i % 2},{int(name == 'cat')}" for name in CLASSES for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,odd,cat", *rows]))
    own = [a for a in SMALL if a not in ("--val", "shapes:n_val=60", "shapes:n=120", "--data", "--no-report")]
    arguments = [
        "odc",
        *own,
        "--data",
        f"csv:{tmp_path / 'labels.csv'}",
        "--max-steps",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    assert pretrain(arguments) == 0
    assert "18 images, 2 classes, several an image" in " ".join(capsys.readouterr().out.split())


def test_pretrain_on_files_that_are_gone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"gone/{i}.png\n" for i in range(9)))
    assert pretrain(["odc", "--data", f"list:{tmp_path / 'list.txt'}", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
