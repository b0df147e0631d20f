"""Read arrays from an .npz file without unpickling, and without memory for what it only claims to hold."""

import math
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np

_LARGE = 256 << 20  # bytes: below it, an array may unpack to any multiple of its size in the file
_MOST_TIMES = 200  # photographs unpack to 1 to 3 times their size, drawings to 50; all-black images to 1,000


class Head(NamedTuple):
    """What the header of an array claims."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Npz:
    """The arrays of a file.

    Attributes:
        heads: Name of an array -> its header; None where it cannot be read.

    Raises:
        ValueError: If it is no such file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.heads: dict[str, Head | None] = {}
        self._members: dict[str, str] = {}
        try:
            with ZipFile(file) as archive:
                for member in archive.namelist():
                    if member.endswith(".npy"):
                        key = member.removesuffix(".npy")
                        self._members[key], self.heads[key] = member, _head(archive, member)
        except Exception as error:  # BadZipFile, struct.error, NotImplementedError, ... on damaged files
            raise self._refusal(error) from error

    def read(self, key: str) -> np.ndarray:
        """Return an array.

        Raises:
            ValueError: If it holds Python objects, is damaged, claims another size than it has, or is a bomb.
        """
        try:
            with ZipFile(self.file) as archive:
                _check_claim(archive, self._members[key])
            with np.load(self.file, allow_pickle=False) as arrays:
                found: np.ndarray = arrays[key]
                return found
        except MemoryError:
            raise
        except Exception as error:  # NumPy raises OSError, BadZipFile, zlib.error, SyntaxError, ... on damaged files
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> ValueError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return ValueError(f"{self.file} is not an npz file of plain arrays: {reason}")


def available_memory() -> int | None:
    """Return the bytes that the machine, or the container, has left; None where that is unknown."""
    found = []
    for path, word in (("/proc/meminfo", "MemAvailable:"), ("/sys/fs/cgroup/memory.max", "")):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(word) and (digits := line.removeprefix(word).split()[0]).isdecimal():
                found.append(int(digits) * (1024 if word else 1))
    return min(found) if found else None


def _head(archive: ZipFile, member: str) -> Head | None:
    try:
        return _claim(archive, member)[0]
    except Exception:  # an array that no one asks for may be damaged
        return None


def _claim(archive: ZipFile, member: str) -> tuple[Head, int]:
    """Return what the header claims, and how many bytes follow it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        return Head(shape, dtype), archive.getinfo(member).file_size - file.tell()


def _check_claim(archive: ZipFile, member: str) -> None:
    """Raise ValueError for objects, for a size that the file does not hold, and for a bomb.

    NumPy would allocate the claimed size.
    """
    head, held = _claim(archive, member)
    if head.dtype.hasobject:
        raise ValueError(f"{member} holds Python objects; reading them needs unpickling, which is never done here")
    if math.prod(head.shape) * head.dtype.itemsize != held:
        raise ValueError(f"{member} claims {head.dtype} {head.shape} but holds {held:,} bytes")
    packed = archive.getinfo(member).compress_size
    if held > _LARGE and held > _MOST_TIMES * packed:
        raise ValueError(
            f"decompression bomb: {member} has {packed:,} bytes and unpacks to {held:,}, more than {_MOST_TIMES} "
            "times as many (where you trust the file, save it with np.savez, which does not compress)"
        )
    available = available_memory()
    if available is not None and held > available:
        raise ValueError(
            f"{member} unpacks to {held:,} bytes, and {available:,} are available: save the images as .npy, which is "
            "read from the disk image by image"
        )
