"""Images of tables that allow no random access, copied once into one file of bytes."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ._decode import CorruptImage, check_size
from ._reading import Reading
from ._remote import SPARE, alone, cache_folder

_MARK = b"indexed-images bytes 1\n"


class StoredBytes:
    """Images in a file: their bytes, then where each begins and how long it is, then their number and a mark.

    Attributes:
        is_absent: Whether an image has no bytes, (N,).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, "rb") as file:
            file.seek(-len(_MARK) - 8, os.SEEK_END)
            n = int.from_bytes(file.read(8), "little")
            if file.read() != _MARK:
                raise ValueError(f"{path} is no copy of images: delete it")
            file.seek(-len(_MARK) - 8 - 16 * n, os.SEEK_END)
            self._where = np.frombuffer(file.read(16 * n), dtype="<i8").reshape(n, 2)
        self.is_absent = self._where[:, 1] < 0

    def __len__(self) -> int:
        return len(self._where)

    def read(self, i: int, reading: Reading) -> bytes:
        """Return the bytes of an image; raise CorruptImage if they are not there."""
        start, size = self._where[i].tolist()
        check_size(size, reading)
        try:
            # Opened for each read: that takes microseconds, and no open file is shared between processes.
            with open(self._path, "rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise CorruptImage(f"{self._path}: {error.strerror or error}") from error
        if len(data) < size:
            raise CorruptImage(f"{self._path} was cut since it was opened")
        return data


def store(file: Path, what: str, n_bytes: int, images: Iterable[bytes | None]) -> StoredBytes:
    """Return the copy of a file's images, after writing it if there is none.

    A file that has changed since gets another copy. Several processes may call this at once: one writes the copy and
    the others wait for it. An incomplete copy is never used.

    Args:
        file: The file.
        what: The part of it that is copied, such as a column.
        n_bytes: Size of the images, about.
        images: Bytes of each image, or None; read only if there is no copy.

    Raises:
        OSError: If the disk is too small.
    """
    found = os.stat(file)
    about = f"{os.path.realpath(file)} {found.st_size} {found.st_mtime_ns} {what}"
    folder = cache_folder().parent / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:32])
    with alone(f"{path}.lock") if os.name == "posix" else nullcontext():
        if not os.path.exists(path):
            if n_bytes + SPARE > (free := shutil.disk_usage(folder).free):
                raise OSError(
                    f"{file}: a copy of its images takes {n_bytes / 1e9:,.1f} GB, {folder} has {free / 1e9:,.1f} GB "
                    "free: name a larger disk in INDEXED_IMAGES_CACHE"
                )
            _write(path, images)
    return StoredBytes(path)


def _write(path: str, images: Iterable[bytes | None]) -> None:
    part = f"{path}.{uuid.uuid4().hex}.part"
    try:
        with open(part, "wb") as file:
            where, start = [], 0
            for image in images:
                where.append((start, -1 if image is None else len(image)))
                if image is not None:
                    file.write(image)
                    start += len(image)
            file.write(np.array(where, dtype="<i8").tobytes())
            file.write(len(where).to_bytes(8, "little") + _MARK)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
