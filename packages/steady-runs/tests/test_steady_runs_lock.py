"""FolderLock between real processes."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steady_runs import BadInput, FolderLock

Start = Callable[[Callable[[], int | None]], int]


def start_owner(start_child: Start, folder: Path) -> int:
    """A process that holds the lock of `folder` when this returns, and keeps it."""
    reading, writing = os.pipe()

    def own() -> None:
        with FolderLock(folder):
            os.write(writing, b"x")
            signal.pause()

    child = start_child(own)
    assert os.read(reading, 1) == b"x"
    return child


def test_a_second_process_is_told_who_holds_the_lock(start_child: Start, tmp_path: Path) -> None:
    owner = start_owner(start_child, tmp_path)
    with pytest.raises(BadInput) as error, FolderLock(tmp_path):
        pass
    assert str(error.value).startswith(f"{tmp_path}: process {owner} on {socket.gethostname()} writes there")
    assert (tmp_path / ".lock").exists()  # it is still the owner's


def test_a_killed_owner_frees_the_lock(start_child: Start, tmp_path: Path) -> None:
    owner = start_owner(start_child, tmp_path)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    assert (tmp_path / ".lock").exists()
    with FolderLock(tmp_path) as lock:
        assert lock.warning is None
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
    assert not (tmp_path / ".lock").exists()


def test_the_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with FolderLock(tmp_path), pytest.raises(BadInput, match=f"process {os.getpid()}"), FolderLock(tmp_path):
            pass


def test_a_file_that_its_owner_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking the file, its owner may end and remove it. The lock is then on a nameless file."""
    import fcntl

    locked = fcntl.lockf
    calls = []

    def lockf(file: Any, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        locked(file, how)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with FolderLock(tmp_path):
        assert len(calls) == 2
        monkeypatch.undo()
        with pytest.raises(BadInput), FolderLock(tmp_path):
            pass


def test_many_processes_never_own_it_together(start_child: Start, tmp_path: Path) -> None:
    """Each of three processes takes the lock a hundred times; inside, a marker file must not exist yet."""
    folder = tmp_path / "run"
    folder.mkdir()

    def work() -> None:
        taken = 0
        while taken < 100:
            try:
                with FolderLock(folder):
                    os.close(os.open(tmp_path / "marker", os.O_CREAT | os.O_EXCL))
                    os.unlink(tmp_path / "marker")
                    taken += 1
            except BadInput:
                continue

    children = [start_child(work) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_a_file_system_without_locks_gives_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with FolderLock(tmp_path) as lock:
        assert lock.warning is not None
        assert "No locks available" in lock.warning


def test_a_system_without_locks_gives_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steady_runs.lock.fcntl", None)
    with FolderLock(tmp_path) as lock:
        assert lock.warning is not None
    assert not list(tmp_path.iterdir())
