"""Which backbone a run takes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from steady_runs import BadInput, Progress, RunFolder, StopSignal
from steady_runs.benchmark import BenchmarkSettings, Job, read_weights


def load(path: Path) -> tuple[SimpleNamespace, str]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there")
    return SimpleNamespace(arch=path.read_text(), seed=None), f"{path.read_text()} from a file"


def build(arch: str, seed: int) -> SimpleNamespace:
    return SimpleNamespace(arch=arch, seed=seed)


def describe(network: SimpleNamespace) -> dict[str, str]:
    return {"arch": network.arch}


def job(folder: Path, **options: Any) -> Job[BenchmarkSettings]:
    given = BenchmarkSettings(command="demo", seed=3, **options)
    return Job(given, RunFolder.create(str(folder), "demo"), Progress(quiet=True), StopSignal())


def read(one: Job[BenchmarkSettings], runs: Path):  # type: ignore[no-untyped-def]
    return read_weights(one, load, build, describe, runs)


def test_the_newest_backbone_is_taken(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        file = tmp_path / "runs" / name / "backbone.safetensors"
        file.parent.mkdir(parents=True)
        file.write_text(f"resnet of {name}")
        os.utime(file, (1000 - age, 1000 - age))
    weights = read(job(tmp_path / "run"), tmp_path / "runs")
    assert weights.backbone.arch == "resnet of new"
    assert weights.file == str(tmp_path / "runs" / "new" / "backbone.safetensors")


def test_without_any_run_a_random_resnet18_is_taken(tmp_path: Path) -> None:
    weights = read(job(tmp_path / "run"), tmp_path / "runs")
    assert (weights.backbone.arch, weights.backbone.seed, weights.file) == ("resnet18", 3, None)


def test_random_init_keeps_the_architecture(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("resnet50")
    weights = read(job(tmp_path / "run", weights=str(tmp_path / "w.pth"), random_init=True), tmp_path)
    assert (weights.backbone.arch, weights.backbone.seed, weights.file) == ("resnet50", 3, None)


def test_a_resumed_run_needs_neither_file_nor_choice(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_text("resnet50")
    first = job(tmp_path / "run", weights=str(file))
    read(first, tmp_path)
    file.unlink()
    folder = RunFolder.existing(first.folder.path)
    options = first.options.model_copy(update={"weights": folder.read_settings()["weights"]})
    again = Job(options, folder, Progress(quiet=True), StopSignal(), resumed=True)
    weights = read(again, tmp_path)
    assert (weights.backbone.arch, weights.file, weights.what) == ("resnet50", None, "resnet50 from a file")
    assert weights.source == str(file)


def test_a_run_that_ended_before_its_weights_cannot_go_on(tmp_path: Path) -> None:
    first = job(tmp_path / "run")
    first.folder.write_settings(first.options.model_dump())
    again = Job(first.options, first.folder, Progress(quiet=True), StopSignal(), resumed=True)
    with pytest.raises(BadInput, match="start it anew"):
        read(again, tmp_path)


def test_settings_keep_the_choice_beside_the_options(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("resnet50")
    one = job(tmp_path / "run", weights=str(tmp_path / "w.pth"))
    read(one, tmp_path)
    saved = one.folder.read_settings()
    assert list(saved)[-2:] == ["architecture", "weights_are"]
    assert saved["architecture"] == {"arch": "resnet50"}
    assert saved["weights"] == str(tmp_path / "w.pth")
    assert (
        one.options.model_dump() | {"architecture": saved["architecture"], "weights_are": saved["weights_are"]} == saved
    )


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--weights .*not there"):
        read(job(tmp_path / "run", weights=str(tmp_path / "none")), tmp_path)
