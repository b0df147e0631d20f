"""`tar:`: uncompressed archives, headers scanned once, members read where they lie; nothing is ever extracted."""

import glob
import os
import re
import tarfile
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ._decode import EXTENSIONS, CorruptImage, decode
from ._source import Labels, PackedStrings, Request, choose_split, encode_names, only_train

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class _Member(NamedTuple):
    parts: tuple[str, ...]  # of the path in the archive, without empty, "." and ".." parts
    shard: int
    offset: int
    size: int
    cls: str | None  # what the sibling .cls member says


class TarSource:
    """Members of tar files, read by offset."""

    def __init__(
        self, shards: list[str], members: list[_Member], labels: Labels, class_names: list[str] | None
    ) -> None:
        self.labels, self.class_names = labels, class_names
        self._shards = shards
        self._names = PackedStrings("/".join(m.parts) for m in members)
        self._where = np.array([(m.shard, m.offset, m.size) for m in members], dtype=np.int64)  # (N, 3)

    def __len__(self) -> int:
        return len(self._names)

    def image(self, i: int) -> Tensor:
        return decode(self.read(i))

    def read(self, i: int) -> bytes:
        shard, offset, size = self._where[i].tolist()
        try:
            # Opened for each read: microseconds beside a decode, and nothing to share between processes.
            with open(self._shards[shard], "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise CorruptImage(error.strerror or str(error)) from error

    def name(self, i: int) -> str:
        return f"{self._shards[self._where[i, 0]]}::{self._names[i]}"


def open_tar(request: Request) -> TarSource:
    """Classes are, in this order: sibling `.cls` members (webdataset), the first folder in the archive, none.

    The pattern may hold `*`, `?`, `[...]` and ranges such as {000..012}. Images lie in the order shard, path. A folder
    that holds every image is no class; first-level folders train/ and val/ (or test/) are the splits.
    """
    shards = [shard for pattern in expand_ranges(os.path.expanduser(request.arg)) for shard in _files(pattern)]
    members = [member for number, shard in enumerate(shards) for member in sorted(_scan(number, shard))]
    if not members:
        raise ValueError(f"no image in tar {request.arg!r}: known extensions: {' '.join(EXTENSIONS)}")
    members = _without_common_folder(members)
    chosen = choose_split({m.parts[0] for m in members if len(m.parts) > 1}, request.split)
    if chosen is None:
        only_train(request, f"tar {request.arg!r}", "it has no folders train/ and val/; open the other shards instead")
        return TarSource(shards, members, *_labels(members, members))
    in_splits = [m._replace(parts=m.parts[1:]) for m in members if m.parts[0] in ("train", "val", "test")]
    here = [m for m in members if m.parts[0] == chosen and len(m.parts) > 1]
    return TarSource(shards, here, *_labels([m._replace(parts=m.parts[1:]) for m in here], in_splits))


def expand_ranges(pattern: str) -> list[str]:
    """`a-{08..10}.tar` to its three names; as many digits as the first bound is written with."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last, width = int(match[1]), int(match[2]), len(match[1])
    if last < first:
        raise ValueError(f"range {match[0]} in {pattern!r} is empty: write {{FIRST..LAST}}")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for number in range(first, last + 1) for name in expand_ranges(f"{head}{number:0{width}}{tail}")]


def _files(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    found = sorted(filter(os.path.isfile, glob.glob(pattern)))
    if not found:
        raise FileNotFoundError(f"no tar file {pattern!r}: write tar:PATTERN, with * or {{000..012}} for shards")
    return found


def _scan(number: int, shard: str) -> list[_Member]:
    with open(shard, "rb") as file:
        start = file.read(6)
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                raise ValueError(f"{shard} is compressed ({kind}), which allows no random access: decompress it first")
        file.seek(0)
        images, classes = [], {}
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (info := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header in memory
                    parts = tuple(part for part in info.name.split("/") if part not in ("", ".", ".."))
                    if not info.isreg() or info.issparse() or not parts or parts[-1].startswith("."):
                        continue
                    suffix = os.path.splitext(parts[-1])[1].lower()
                    if suffix == ".cls":
                        file.seek(info.offset_data)
                        classes[_key(parts)] = file.read(info.size).decode("utf-8", "replace").strip()
                    elif suffix in EXTENSIONS:
                        images.append((parts, info.offset_data, info.size))
        except tarfile.TarError as error:
            raise ValueError(f"{shard} is not a whole tar file: {error}") from error
        end = file.seek(0, os.SEEK_END)
    if images and max(offset + size for _, offset, size in images) > end:
        raise ValueError(f"{shard} is truncated: its last image ends beyond the file's {end} bytes")
    return [_Member(parts, number, offset, size, classes.get(_key(parts))) for parts, offset, size in images]


def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    return (*parts[:-1], parts[-1].split(".")[0])  # webdataset: what shares a path up to the first dot is one sample


def _without_common_folder(members: list[_Member]) -> list[_Member]:
    while len({m.parts[0] for m in members}) == 1 and all(len(m.parts) > 1 for m in members):
        members = [m._replace(parts=m.parts[1:]) for m in members]
    return members


def _labels(members: list[_Member], vocabulary: list[_Member]) -> tuple[Labels, list[str] | None]:
    """Labels of `members`; all splits name the classes, so that one missing here does not shift the others."""
    cls = [m.cls for m in members if m.cls is not None]
    if len(cls) == len(members):
        if all(re.fullmatch(r"[+-]?\d{1,18}", c) for c in cls):
            return np.array([int(c) for c in cls], dtype=np.int64), None
        return encode_names(cls, [m.cls for m in vocabulary if m.cls is not None])
    if all(len(m.parts) > 1 for m in members):
        return encode_names([m.parts[0] for m in members], [m.parts[0] for m in vocabulary if len(m.parts) > 1])
    return None, None
