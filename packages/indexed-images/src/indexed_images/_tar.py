"""The source `tar:`: uncompressed archives, whose members are read in place by offset and never extracted."""

import glob
import io
import os
import re
import tarfile
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ._decode import EXTENSIONS, CorruptImage, check_size, decode
from ._remote import Archive, is_remote, local_copies
from ._source import Labels, PackedStrings, Request, choose_split, encode_names, only_train

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

_LABEL_BYTES = 4096  # largest size of a .cls member


class _Member(NamedTuple):
    parts: tuple[str, ...]  # path in the archive, without empty, "." and ".." parts
    shard: int
    offset: int
    size: int
    cls: str | None  # content of the .cls member of the same sample


class TarSource:
    """Images in tar files, read by offset."""

    def __init__(
        self,
        shards: list[Archive],
        members: list[_Member],
        labels: Labels,
        class_names: list[str] | None,
        upright: bool,
    ) -> None:
        self.labels, self.class_names = labels, class_names
        self._upright = upright
        self._shards = shards
        self._names = PackedStrings("/".join(m.parts) for m in members)
        self._where = np.array([(m.shard, m.offset, m.size) for m in members], dtype=np.int64)  # (N, 3)

    def __len__(self) -> int:
        return len(self._names)

    def image(self, i: int) -> Tensor:
        return decode(self.read(i), self._upright)

    def read(self, i: int) -> bytes:
        shard, offset, size = self._where[i].tolist()
        check_size(size)
        try:
            # Open the file for each read: that takes microseconds, and no open file is shared between processes.
            with open(self._shards[shard].path, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise CorruptImage(error.strerror or str(error)) from error
        if len(data) < size:
            raise CorruptImage(f"only {len(data):,} of {size:,} bytes: the archive was cut since it was opened")
        return data

    def name(self, i: int) -> str:
        return f"{self._shards[self._where[i, 0]].address}::{self._names[i]}"


def open_tar(request: Request) -> TarSource:
    """Open `tar:PATTERN`, with `*`, `?`, `[...]` and ranges such as {000..012}; it may be a URL (see `_remote.py`).

    Classes come from `.cls` members (webdataset) or else from the first folder in the archive; otherwise there are no
    labels. A folder that holds every image is not a class. First-level folders train/ and val/ (or test/) are splits.
    Images are sorted by shard, then by path.
    """
    pattern = os.path.expanduser(request.arg)
    patterns = [pattern] if os.path.isfile(pattern) else expand_ranges(pattern)  # braces may be part of a name
    shards = local_copies(patterns) if is_remote(request.arg) else [f for pattern in patterns for f in _files(pattern)]
    members = [member for number, shard in enumerate(shards) for member in sorted(_scan(number, shard))]
    if not members:
        raise ValueError(f"no image in tar {request.arg!r}: known extensions: {' '.join(EXTENSIONS)}")
    members = _without_common_folder(members)
    chosen = choose_split({m.parts[0] for m in members if len(m.parts) > 1}, request.split)
    if chosen is None:
        only_train(request, f"tar {request.arg!r}", "it has no folders train/ and val/; open the other shards instead")
        return TarSource(shards, members, *_labels(members, members), request.upright)
    in_splits = [m._replace(parts=m.parts[1:]) for m in members if m.parts[0] in ("train", "val", "test")]
    here = [m for m in members if m.parts[0] == chosen and len(m.parts) > 1]
    labels, class_names = _labels([m._replace(parts=m.parts[1:]) for m in here], in_splits)
    return TarSource(shards, here, labels, class_names, request.upright)


def expand_ranges(pattern: str) -> list[str]:
    """Expand `a-{08..10}.tar` to its three names, padded with zeros to the width of the first number."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last, width = int(match[1]), int(match[2]), len(match[1])
    if last < first:
        raise ValueError(f"range {match[0]} in {pattern!r} is empty: write {{FIRST..LAST}}")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for number in range(first, last + 1) for name in expand_ranges(f"{head}{number:0{width}}{tail}")]


def _files(pattern: str) -> list[Archive]:
    if os.path.isfile(pattern):
        return [Archive(pattern, pattern)]
    found = sorted(filter(os.path.isfile, glob.glob(pattern)))
    if not found:
        raise FileNotFoundError(f"no tar file {pattern!r}: write tar:PATTERN, with * or {{000..012}} for shards")
    return [Archive(path, path) for path in found]


class _Bounded(io.BufferedReader):
    """A reader that never allocates more bytes than the file has left, whatever size a header claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or not 0 <= size <= left else size)


def _scan(number: int, shard: Archive) -> list[_Member]:
    images, classes, odd = [], {}, []
    with _Bounded(io.FileIO(shard.path)) as file:
        end = os.fstat(file.fileno()).st_size
        start = file.read(6)
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                raise ValueError(
                    f"{shard.address} is compressed ({kind}), which allows no random access: decompress it first"
                )
        file.seek(0)
        try:
            for info in _headers(file):
                parts = tuple(part for part in info.name.split("/") if part not in ("", ".", ".."))
                suffix = os.path.splitext(parts[-1])[1].lower() if parts else ""
                if suffix not in (*EXTENSIONS, ".cls") or parts[-1].startswith("."):
                    continue
                if not info.isreg() or info.issparse():
                    odd.append(info.name)
                    continue
                if info.offset_data + info.size > end:
                    raise tarfile.ReadError(f"truncated, {info.name!r} ends beyond the file's {end:,} bytes")
                if suffix != ".cls":
                    images.append((parts, info.offset_data, info.size))
                    continue
                if info.size > _LABEL_BYTES:
                    raise tarfile.ReadError(f"{info.name!r} has {info.size:,} bytes, expected a class index or name")
                file.seek(info.offset_data)
                classes[_key(parts)] = file.read(info.size).decode("utf-8", "replace").strip()
        except Exception as error:  # on damaged headers, tarfile raises ValueError, OverflowError, ... beside TarError
            raise ValueError(
                f"{shard.address} is not a whole tar file: {' '.join(str(error).split())[:200]}"
            ) from error
    if odd:
        warnings.warn(
            f"{shard.address}: {len(odd):,} members are links, devices or sparse and are skipped, "
            f"the first is {odd[0]!r}",
            stacklevel=2,
        )
    return [_Member(parts, number, offset, size, classes.get(_key(parts))) for parts, offset, size in images]


def _headers(file: _Bounded) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of an archive one by one, and raise where a forged size leads back to an earlier one."""
    last = -1
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps all headers in memory
            if info.offset <= last or info.size < 0:
                raise tarfile.ReadError(f"{info.name!r} has a size below zero, so its headers would never end")
            last = info.offset
            yield info


def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    return (*parts[:-1], parts[-1].split(".")[0])  # webdataset: one sample is what shares a path up to the first dot


def _without_common_folder(members: list[_Member]) -> list[_Member]:
    while len({m.parts[0] for m in members}) == 1 and all(len(m.parts) > 1 for m in members):
        members = [m._replace(parts=m.parts[1:]) for m in members]
    return members


def _labels(members: list[_Member], vocabulary: list[_Member]) -> tuple[Labels, list[str] | None]:
    """Return labels of `members`; the classes are those of `vocabulary`, which holds all splits."""
    cls = [m.cls for m in members if m.cls is not None]
    if len(cls) == len(members):
        if all(re.fullmatch(r"[+-]?\d{1,18}", c) for c in cls):
            return np.array([int(c) for c in cls], dtype=np.int64), None
        return encode_names(cls, [m.cls for m in vocabulary if m.cls is not None])
    if all(len(m.parts) > 1 for m in members):
        return encode_names([m.parts[0] for m in members], [m.parts[0] for m in vocabulary if len(m.parts) > 1])
    return None, None
