"""RunFolder: made once, files whole or absent, damaged lines named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from steady_runs import BadInput, FolderLock, RunFolder, replace


def test_a_run_gets_the_next_free_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [RunFolder.create(None, "demo").path for _ in range(2)]
    Path("runs/demo-3").write_text("a file has the name")
    made.append(RunFolder.create(None, "demo").path)
    assert made == [Path("runs/demo-1"), Path("runs/demo-2"), Path("runs/demo-4")]
    assert all(path.is_dir() for path in made)


def test_an_empty_folder_can_be_the_out(tmp_path: Path) -> None:
    assert RunFolder.create(str(tmp_path / "a" / "b"), "demo").path.is_dir()
    (tmp_path / "c").mkdir()
    assert RunFolder.create(str(tmp_path / "c"), "demo").path == tmp_path / "c"


@pytest.mark.parametrize("name", ["settings.json", "results.json"])
def test_a_folder_with_a_run_is_not_taken(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(BadInput, match="there is a run already"):
        RunFolder.create(str(tmp_path), "demo")


@pytest.mark.parametrize("out", ["file/run", "file", "null\0byte", "n" * 300])
def test_an_out_that_cannot_be_made(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(BadInput, match="cannot write there"):
        RunFolder.create(out, "demo")


def test_runs_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match="cannot write there"):
        RunFolder.create(None, "demo")


def test_settings_come_back(tmp_path: Path) -> None:
    folder = RunFolder.create(str(tmp_path / "run"), "demo")
    folder.write_settings({"seed": 0, "out": None})
    assert RunFolder.existing(tmp_path / "run").read_settings() == {"seed": 0, "out": None}
    folder.settings_file.write_text("{")
    with pytest.raises(BadInput, match=r"settings.json: cannot be read"):
        folder.read_settings()


def test_a_folder_without_settings_is_not_a_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone", tmp_path / ("n" * 300)):
        with pytest.raises(BadInput, match="not a run"):
            RunFolder.existing(path)


def test_a_program_may_name_its_settings_file(tmp_path: Path) -> None:
    class Toml(RunFolder):
        settings_name = "config.toml"

    (tmp_path / "config.toml").write_text("")
    assert Toml.existing(tmp_path).settings_file == tmp_path / "config.toml"
    with pytest.raises(BadInput, match="there is a run already"):
        Toml.create(str(tmp_path), "demo")


def test_an_unfinished_last_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    folder.append_metrics({"step": 1})
    folder.append_metrics({"step": 2})
    with folder.metrics.open("a") as file:
        file.write('{"step": 3, "lo')
    assert folder.read_metrics() == [{"step": 1}, {"step": 2}]
    folder.keep_metrics(lambda line: line["step"] < 2)
    assert folder.metrics.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("damage", [b'{"step": \n', b"\xff\xfe\n", b"\n"])
def test_a_damaged_line_of_metrics_is_named(damage: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 2}\n')
    with pytest.raises(BadInput, match=r"metrics.jsonl: a line in it is damaged"):
        folder.read_metrics()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    replace(path, "old")

    def full(handle: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="disk full"):
            replace(path, "new")
    assert path.read_text() == "old"
    replace(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert path.read_bytes() == b"new"


def test_the_content_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    rename, flush = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("flush"), flush(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), rename(*names)))
    RunFolder(tmp_path).write_results({"a": 1})
    assert steps == ["flush", "rename"]
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}


def test_an_unused_folder_is_removed(tmp_path: Path) -> None:
    unused = RunFolder.create(str(tmp_path / "unused"), "demo")
    used = RunFolder.create(str(tmp_path / "used"), "demo")
    used.append_metrics({"step": 1})
    for folder in (unused, used):
        folder.write_settings({})
        with FolderLock(folder.path):
            folder.remove_if_unused()
    assert not unused.path.exists()
    assert sorted(path.name for path in used.path.iterdir()) == ["metrics.jsonl", "settings.json"]


def test_ranks_that_write_nothing_have_a_folder_nowhere() -> None:
    assert RunFolder.nowhere().path == Path(os.devnull)
