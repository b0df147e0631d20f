"""Disks, folders and images that give way under a run: it goes on, or ends in one line, its last state whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_run import METHOD, arguments, at_step, last_step, of_photos, one_line, photos, resumed_as
from forks import CAN_HAVE_OWN_DISK, forked, own_disk, read_only
from pretrain.cli import main
from small_run import ROOT, lines, same_weights, untimed

slow = pytest.mark.slow


def test_images_that_vanish_or_are_cut_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of a hundred is replaced and named, a second one ends the run; put back, it goes on."""
    folder = photos(tmp_path / "photos")
    odd = folder / "007\n\udce9.jpg"  # a line break, and a byte that is no UTF-8
    (folder / "007.jpg").rename(odd)
    at_step(monkeypatch, 1, odd.unlink)
    loud = [a for a in of_photos(folder, tmp_path / "run") if a != "--quiet"]
    assert main(loud) == 0
    said = capsys.readouterr().out
    assert "1 damaged file was replaced by others; the first: " in said
    assert "007\\n\\udce9.jpg (" in said
    shutil.copy(folder / "008.jpg", odd)
    content = (folder / "100.jpg").read_bytes()

    def damage() -> None:
        odd.unlink()
        (folder / "100.jpg").write_bytes(content[:300])

    monkeypatch.undo()
    at_step(monkeypatch, 1, damage)
    out = tmp_path / "again"
    assert main(of_photos(folder, out)) == 2
    error = one_line(capsys.readouterr().err)
    assert "2 of 120 images are corrupt, at most 1 may be replaced" in error
    assert "100.jpg" in error
    reached = last_step(out)
    assert main(["resume", str(out), "--quiet"]) == 2  # it lists the folder anew: an image less, other numbers
    assert "119 images, and 120 when the run began" in one_line(capsys.readouterr().err)
    monkeypatch.undo()
    shutil.copy(folder / "008.jpg", odd)
    (folder / "100.jpg").write_bytes(content)
    assert main(["resume", str(out), "--quiet"]) == 0
    assert reached < last_step(out) == 8


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 8, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


@pytest.mark.skipif(not CAN_HAVE_OWN_DISK, reason="a file system of its own needs root on Linux")
def test_a_full_disk(unharmed: Path, tmp_path: Path) -> None:
    """A real file system, filled to the last byte in the middle of step 5; with room again, the run goes on."""
    disk, out, errors = tmp_path / "disk", tmp_path / "disk" / "run", tmp_path / "errors"
    disk.mkdir()

    def work() -> int:
        own_disk(disk, 20 << 20)
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 5, lambda: fill(disk))
            code = main(arguments(METHOD, out))
        shutil.copytree(out, tmp_path / "failed")
        (disk / "ballast").unlink()
        assert main(["resume", str(out), "--quiet"]) == 0
        shutil.copytree(out, tmp_path / "resumed")
        return code

    assert forked(work, errors) == 3, errors.read_text()
    assert "No space left on device; the last checkpoint is whole" in one_line(errors.read_text())
    assert last_step(tmp_path / "failed") in (3, 4)
    assert not list((tmp_path / "failed").glob("*.part"))
    assert untimed(lines(tmp_path / "resumed")) == untimed(lines(unharmed))
    same_weights(unharmed, tmp_path / "resumed")


@pytest.mark.skipif(not CAN_HAVE_OWN_DISK, reason="a file system of its own needs root on Linux")
def test_a_disk_that_turns_read_only(tmp_path: Path) -> None:
    """As Linux does with one that has errors."""
    disk, out, errors = tmp_path / "disk", tmp_path / "disk" / "run", tmp_path / "errors"
    disk.mkdir()

    def work() -> int:
        own_disk(disk, 20 << 20)
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 3, lambda: read_only(disk))
            code = main(arguments(METHOD, out))
        shutil.copytree(out, tmp_path / "failed")
        return code

    assert forked(work, errors) == 3, errors.read_text()
    assert "Read-only file system" in one_line(errors.read_text())
    assert last_step(tmp_path / "failed") in (1, 2)


@slow
@pytest.mark.skipif(not CAN_HAVE_OWN_DISK, reason="a file system of its own needs root on Linux")
def test_a_disk_too_small_from_a_shell(tmp_path: Path) -> None:
    """The command as people start it, to the end of its process: nothing but the line, whatever is flushed at exit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, str(ROOT / "apps/pretrain"), *arguments(METHOD, disk / "run")]
    script = f'mount -t tmpfs -o size=4m none "{disk}" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in one_line(done.stderr)


@slow
def test_a_file_may_not_grow(tmp_path: Path) -> None:
    """A limit on the size of files, which is a quota of one process."""
    out, errors = tmp_path / "run", tmp_path / "errors"

    def work() -> int:
        import resource

        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY)))
            return main(arguments(METHOD, out))

    assert forked(work, errors) == 3, errors.read_text()
    assert "File too large" in one_line(errors.read_text())
    assert last_step(out) == 2


def test_a_run_folder_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    at_step(monkeypatch, 3, lambda: shutil.rmtree(out))
    assert main(arguments(METHOD, out, "--checkpoint-every", "1000")) == 3
    error = one_line(capsys.readouterr().err)
    assert "No such file or directory" in error
    assert str(out) in error


@pytest.mark.parametrize(
    "torn",
    [b"\0" * 512, pytest.param(b'{"step": 4, "ep', marks=slow), pytest.param(b'{"step"\xff', marks=slow)],
    ids=["zeros", "half a line", "no UTF-8"],
)
def test_a_torn_line_of_metrics(torn: bytes, unharmed: Path, tmp_path: Path) -> None:
    """What a power cut leaves: half a line, or zeros."""
    out = tmp_path / "run"
    shutil.copytree(unharmed, out)
    os.replace(out / "checkpoint.previous.pt", out / "checkpoint.pt")  # of step 7
    kept = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join(kept[:-2]) + torn)
    resumed_as(unharmed, out)


def test_a_damaged_line_of_metrics_is_named(unharmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(unharmed, out)
    kept = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join([kept[0], b"{\n", *kept[2:]]))
    assert main(["resume", str(out), "--quiet"]) == 2
    assert "metrics.jsonl: a line in it is damaged" in one_line(capsys.readouterr().err)


def test_resume_before_the_first_checkpoint_starts_anew(unharmed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    config = (unharmed / "config.toml").read_text()
    (out / "config.toml").write_text(re.sub(r"^out = .*$", f"out = {json.dumps(str(out))}", config, flags=re.M))
    (out / "checkpoint.part").write_bytes(b"half a checkpoint")
    resumed_as(unharmed, out)
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
