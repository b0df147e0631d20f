"""One process writes a run folder at a time. The kernel frees the lock when the process ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from steady_runs.errors import BadInput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"

_held: dict[
    Path, int
] = {}  # folders that this process has locked, and its number, as forked processes inherit the dict


class FolderLock:
    """A context that holds the lock of a folder.

    The lock is a POSIX record lock: worker processes do not inherit it, so it is free as soon as its owner is dead.
    `warning` says so in a line where the file system cannot lock (some network disks, Windows); the run goes on then.

    Raises:
        BadInput: On entering, if another process holds the lock; the message names its host and process number.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.warning: str | None = None
        self._file: Any = None

    def __enter__(self) -> FolderLock:
        if fcntl is None:
            self.warning = "this system cannot lock a folder: take care that no second process resumes this run"
            return self
        # A record lock does not exclude its own process, which would even free it by closing the file once more.
        if _held.get(self.path.resolve()) == os.getpid():
            raise self._is_taken(_owner())
        while True:
            file = self.path.open("a+")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    file.seek(0)
                    owner = file.read().strip() or "another process"
                    file.close()
                    raise self._is_taken(owner) from None
                file.close()
                self.warning = (
                    f"{self.path.parent} cannot be locked ({error.strerror}): "
                    "take care that no second process resumes this run"
                )
                return self
            if _is_still_there(file, self.path):
                break
            file.close()  # its last owner removed it between our opening and locking it
        file.truncate(0)
        file.write(f"{_owner()}\n")
        file.flush()
        self._file = file
        _held[self.path.resolve()] = os.getpid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self.path.unlink(missing_ok=True)  # while it is still locked, so that nobody else's is removed
            self._file.close()
            self._file = None
            _held.pop(self.path.resolve(), None)

    def _is_taken(self, owner: str) -> BadInput:
        return BadInput(f"{self.path.parent}: {owner} writes there; wait for it, or stop it first")


def _owner() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _is_still_there(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
