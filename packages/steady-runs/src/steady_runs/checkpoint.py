"""Checkpoints: written in the background, replaced atomically, and checked by a hash before they are read.

A checkpoint is a file of `torch.save` whose zip comment is the SHA-256 of the bytes before it. It is written beside its
place, flushed to the disk, then renamed; the previous one is kept. So one whole checkpoint exists whenever the process
dies, and a file that was damaged later is recognised before any of it is interpreted. One more may be kept for longer.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from steady_runs.errors import BadInput

_MARK = b"sha256 "
_COMMENT = len(_MARK) + 64  # of hexadecimal digits
_CHUNK = 1 << 22  # bytes


class Checkpoints:
    """`checkpoint.pt` and the previous one, `checkpoint.previous.pt`, in one folder. A context that ends with `wait`.

    `checkpoint.kept.pt` is the last one that was saved with `keep=True`. It is a hard link, so it takes no time, and no
    space while it is one of the other two; where a file system has no hard links, it is a copy.

    `save` copies the tensors and returns; a thread writes the copy. The copy's memory is kept for the next save, so a
    run holds its state twice. Training waits only for the copy, unless checkpoints come faster than the disk writes.
    """

    def __init__(self, folder: Path) -> None:
        self.last = folder / "checkpoint.pt"
        self.previous = folder / "checkpoint.previous.pt"
        self.kept = folder / "checkpoint.kept.pt"
        self._copy: Any = None
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: dict[str, Any], provided: Tensor | None = None, *, keep: bool = False) -> bool:
        """Copy the state and write the copy in the background. Waits for a GPU once.

        Args:
            state: Nested dicts, lists and tuples of tensors and plain values.
            provided: () bool; if False, nothing is written.
            keep: Keep this checkpoint, in place of the one kept so far, until another one is kept.

        Returns:
            Whether the state is being written.

        Raises:
            OSError: If the previous save failed.
        """
        self.wait()
        self._copy, provided = _copied((state, provided), (self._copy, None))
        if _is_on_gpu(state):
            torch.cuda.current_stream().synchronize()
        if provided is not None and not provided:
            return False
        self._writer = threading.Thread(target=self._write, args=(keep,), name="checkpoint", daemon=True)
        self._writer.start()
        return True

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk. Raises OSError if it could not be written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the write at hand. Its failure is raised, unless another error is ending the run already."""
        try:
            self.wait()
        except OSError:
            if error is None:
                raise

    def load(self, *, unhashed: bool = False) -> tuple[dict[str, Any] | None, str | None]:
        """Load the newest whole checkpoint onto the CPU.

        A damaged file is renamed to `.damaged`, so that the next `save` does not replace the good one by it.

        Args:
            unhashed: Also read files that `torch.save` wrote without a hash, as earlier versions of a program did.

        Returns:
            (state, warning): the warning is None unless a damaged file was passed over. (None, None) if there is no
            checkpoint yet.

        Raises:
            BadInput: If there are only damaged ones.
        """
        damaged: list[str] = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            if (state := _read(path, unhashed=unhashed)) is not None:
                return state, "; ".join([*damaged, "going on from the one before"]) if damaged else None
            aside = path.with_suffix(".damaged")
            os.replace(path, aside)
            damaged.append(f"{path} is damaged, and now {aside.name}")
        if damaged:
            raise BadInput("; ".join([*damaged, "there is no other checkpoint: start the run anew"]))
        return None, None

    def load_kept(self) -> dict[str, Any] | None:
        """Load the checkpoint that was kept onto the CPU. None if none was kept, or if the file is damaged."""
        return _read(self.kept)

    def _write(self, keep: bool) -> None:
        part = self.last.with_suffix(".part")
        try:
            part.unlink(
                missing_ok=True
            )  # after a kill it may be one file with the kept one, and is not to be truncated
            with part.open("wb") as file:
                _write_hashed(self._copy, file)
                file.flush()
                os.fsync(file.fileno())
            if keep:  # before the renames: whoever finds this checkpoint as the last one finds it kept as well
                _link(part, self.kept)
            if self.last.exists():
                os.replace(self.last, self.previous)
            os.replace(part, self.last)
            _flush_folder(self.last.parent)
        except Exception as error:  # the next `save` or `wait` raises it, in the thread that trains
            self._error = _reason(error)
            part.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """Make `target` another name of a file that is on the disk; it is the old file or the new one at any time."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # no hard links on this file system; a full disk fails again below
        shutil.copyfile(source, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    os.replace(part, target)


def _reason(error: Exception) -> Exception:
    """The OSError that caused it, if any: torch reports a failed write as an error of the zip archive."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _copied(value: Any, old: Any) -> Any:
    """Copy nested dicts, lists and tuples, every tensor into its own memory on the CPU.

    The memory of `old`, an earlier copy, is reused where shape and dtype match, as allocating pages costs more than
    copying. Copies from a GPU go to pinned memory and are asynchronous: the caller waits for all of them together.
    """
    if isinstance(value, Tensor):
        fits = isinstance(old, Tensor) and old.shape == value.shape and old.dtype == value.dtype
        target = old if fits else torch.empty_like(value, device="cpu", memory_format=torch.preserve_format)
        if value.is_cuda and not fits:
            target = target.pin_memory()
        return target.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        by_key = old if isinstance(old, dict) else {}
        return {key: _copied(item, by_key.get(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        known = old if isinstance(old, list | tuple) and len(old) == len(value) else [None] * len(value)
        return type(value)(_copied(item, before) for item, before in zip(value, known, strict=True))
    return value


def _is_on_gpu(value: Any) -> bool:
    """Whether any tensor in nested dicts, lists and tuples is on a GPU."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_is_on_gpu(item) for item in value)
    return isinstance(value, Tensor) and value.is_cuda


class _Hashed:
    """A file that is written from start to end, with the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _write_hashed(state: Any, file: BinaryIO) -> None:
    hashed = _Hashed(file)
    torch.save(state, hashed)  # type: ignore[arg-type]  # torch.save calls only write and flush
    file.seek(-2, os.SEEK_END)  # a zip archive ends with the length of its comment, two bytes
    file.write(_COMMENT.to_bytes(2, "little") + _MARK + hashed.sha.hexdigest().encode())


def _read(path: Path, *, unhashed: bool = False) -> dict[str, Any] | None:
    """The state, or None if the file is damaged or was not written by `Checkpoints`."""
    if unhashed and _has_no_comment(path):
        try:
            plain: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return plain
        except Exception:  # torch.load raises errors of any kind for damaged files
            return None
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            sha = hashlib.sha256()
            for piece in _pieces(file, size - _COMMENT - 2):
                sha.update(piece)
            sha.update(b"\0\0")  # the comment's length when the hash was taken: there was no comment yet
            if file.read() != _COMMENT.to_bytes(2, "little") + _MARK + sha.hexdigest().encode():
                return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return state


def _has_no_comment(path: Path) -> bool:
    """Whether the file ends as a zip archive without a comment. One that `Checkpoints` wrote never does."""
    try:
        with path.open("rb") as file:
            file.seek(-22, os.SEEK_END)  # length of a zip archive's end record without a comment
            end = file.read()
    except OSError:
        return False
    return end.startswith(b"PK\5\6") and end.endswith(b"\0\0")


def _pieces(file: BinaryIO, n_bytes: int) -> Iterator[bytes]:
    while n_bytes > 0 and (piece := file.read(min(_CHUNK, n_bytes))):
        n_bytes -= len(piece)
        yield piece


def _flush_folder(folder: Path) -> None:
    """Flush the renames to the disk, so that they survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
