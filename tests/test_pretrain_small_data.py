"""The data sets that people bring to these methods and that other codes fail on: few images, one class, grey."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from indexed_images import open_images
from pretrain.cli import main
from small_run import SMALL_RUNS

METHODS = list(SMALL_RUNS)


def train(method: str, out: Path, *more: str) -> list[dict[str, float]]:
    fast = ["--epochs", "1", "--knn-every", "0", "--quiet"]
    assert main([method, *SMALL_RUNS[method], "--out", str(out), *fast, *more]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def npz(path: Path, images: np.ndarray, labels: np.ndarray) -> str:
    np.savez(path, images=images, labels=labels)
    return f"npz:{path}"


def pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    images = open_images(f"shapes:n={n}")
    return images.resident().permute(0, 2, 3, 1).numpy(), np.asarray(images.labels)


@pytest.mark.parametrize("method", METHODS)
def test_two_hundred_images_in_batches_of_eight(method: str, tmp_path: Path) -> None:
    """K = 50 with batches of 8: SwAV takes a queue by itself, and the others do not mind."""
    arguments = ["--data", "shapes:n=200", "--batch", "8", "--k", "50", "--log-every", "5"]
    if method == "swav":
        arguments += ["--queue", "64"]
    metrics = train(method, tmp_path / "run", *arguments)
    assert metrics[-1]["step"] == 25
    assert all(np.isfinite(line["loss"]) for line in metrics if "loss" in line)


def test_swav_says_what_to_change_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [*SMALL_RUNS["swav"], "--data", "shapes:n=200", "--batch", "8", "--k", "50", "--queue", "0"]
    assert main(["swav", *own, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "8 samples" in error
    assert "50 prototypes" in error
    assert "queue >= 42" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_thirteen_hundred_images_and_the_recipes_own_sizes(method: str, tmp_path: Path) -> None:
    own = list(SMALL_RUNS[method])
    for option in ("--k", "--batch", *(("--queue",) if method == "swav" else ())):
        del own[own.index(option) : own.index(option) + 2]
    more = ["--data", "shapes:n=1300", "--epochs", "1", "--max-steps", "12", "--out", str(tmp_path / "run"), "--quiet"]
    assert main([method, *own, *more]) == 0


@pytest.mark.parametrize("method", METHODS)
def test_one_class_is_trained_on_but_not_scored(method: str, tmp_path: Path) -> None:
    images, _ = pictures(120)
    data = npz(tmp_path / "one.npz", images, np.zeros(120, np.int64))
    assert "knn_top1" not in train(method, tmp_path / "run", "--data", data, "--val", data)[-1]


@pytest.mark.parametrize("method", METHODS)
def test_grey_images(method: str, tmp_path: Path) -> None:
    images, labels = pictures(120)
    grey = np.repeat(images.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    data = npz(tmp_path / "grey.npz", grey, labels)
    assert train(method, tmp_path / "run", "--data", data, "--val", data)[-1]["final"]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_image_over_and_over(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to cluster by: a run ends well, or with one line that says what is wrong."""
    data = npz(tmp_path / "same.npz", np.full((60, 32, 32, 3), 128, np.uint8), np.zeros(60, np.int64))
    arguments = [method, *SMALL_RUNS[method], "--data", data, "--epochs", "1", "--out", str(tmp_path / "run")]
    code = main(arguments)
    error = capsys.readouterr().err
    assert code in (0, 2, 3)
    assert error.count("\n") == (code != 0)


def test_a_warm_start_takes_the_weights(tmp_path: Path) -> None:
    train("odc", tmp_path / "first")
    weights = str(tmp_path / "first" / "backbone.safetensors")
    metrics = train("deepcluster", tmp_path / "second", "--weights", weights)
    final = json.loads((tmp_path / "first" / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics[0]["knn_top1"] == final["knn_top1"]


def test_a_warm_start_with_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("odc", tmp_path / "first")
    weights = str(tmp_path / "first" / "backbone.safetensors")
    again = [*SMALL_RUNS["odc"], "--weights", weights, "--width", "0.25", "--out", str(tmp_path / "second")]
    assert main(["odc", *again]) == 2
    assert "width 0.125 instead of 0.25" in capsys.readouterr().err
