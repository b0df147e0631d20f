"""Folders as people have them: no labels, few images, odd files, a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from indexed_images import open_images
from PIL import Image
from pretrain.cli import main
from small_run import SMALL


def photo(i: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    values = np.random.default_rng(i).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size)


def folder_of(path: Path, n: int) -> Path:
    path.mkdir()
    for i in range(n):
        photo(i).save(path / f"{i:03}.jpg")
    return path


def train(photos: Path, out: Path, *more: str) -> list[dict[str, float]]:
    own = [argument for argument in SMALL if argument not in ("--k", "6")]
    own[own.index("--data") + 1] = f"folder:{photos}"
    del own[own.index("--val") : own.index("--val") + 2]
    assert main(["odc", *own, "--out", str(out), "--epochs", "1", *more]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_fifty_images_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = train(folder_of(tmp_path / "photos", 50), tmp_path / "run", "--report", "--batch", "256", "--epochs", "3")
    assert [line["step"] for line in metrics if "loss" in line] == [1, 2, 3]  # one batch of all fifty an epoch
    assert "knn_top1" not in metrics[-1]
    assert metrics[-1]["final"] is True
    assert "10 clusters" in capsys.readouterr().out  # one for five images
    assert "a colour a cluster" in (tmp_path / "run" / "report.html").read_text()


def test_labels_without_a_val_split_are_scored_among_themselves(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("cats", "dogs"):
        folder_of(photos / name, 20)
    assert 0 <= train(photos, tmp_path / "run")[-1]["knn_top1"] <= 100


def test_file_kinds(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", 30)
    photo(1).convert("L").save(photos / "grey.png")
    photo(2).convert("RGBA").save(photos / "alpha.png")
    photo(3).convert("P").save(photos / "palette.gif")
    photo(4).convert("CMYK").save(photos / "cmyk.jpg")
    Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 30).save(photos / "deep.png")
    frames = [photo(i) for i in range(5, 8)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    photo(8, (8, 200)).save(photos / "narrow.png")
    train(photos, tmp_path / "run")


def test_one_damaged_file_is_named_and_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = folder_of(tmp_path / "photos", 110)
    content = (photos / "007.jpg").read_bytes()
    (photos / "007.jpg").write_bytes(content[: len(content) // 2])
    train(photos, tmp_path / "run", "--workers", "2")
    out = capsys.readouterr().out
    assert "1 damaged file was replaced" in out
    assert "007.jpg" in out


@pytest.mark.slow
def test_real_photographs(data_folder: Path, tmp_path: Path) -> None:
    archive = data_folder / "imagenet_small" / "imagenette160.tar"
    if not archive.exists():
        pytest.skip("no imagenette160.tar among the real images")
    source = tmp_path / "few"
    images = open_images(f"tar:{archive}")
    for i in range(0, 4000, 40):
        folder = source / images.class_names[int(images.labels[i])]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(images.bytes(i) or b"")
    metrics = train(source, tmp_path / "run", "--crops", "1x64@0.3-1", "--workers", "1")
    assert metrics[-1]["knn_top1"] > 0
