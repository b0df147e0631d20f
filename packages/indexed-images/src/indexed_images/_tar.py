"""The source `tar:`: uncompressed archives, whose members are read in place by offset and never extracted."""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from ._account import Account
from ._decode import EXTENSIONS, CorruptImage, check_size
from ._files import chosen_split
from ._labels import Labelling
from ._layout import Found, images_of, understand
from ._reading import Notes, Reading
from ._remote import Archive, is_remote, local_copies
from ._source import EncodedSource, PackedStrings, Request, file_stamp
from ._tar_labels import LABEL_BYTES, LABEL_SUFFIXES, LabelError, LabelFiles, Stem, add_label_file, labels_of_members

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class _Member(NamedTuple):
    parts: tuple[str, ...]  # path in the archive, without empty, "." and ".." parts
    shard: int
    offset: int
    size: int


class TarSource(EncodedSource):
    """Images in tar files, read by offset."""

    def __init__(
        self, shards: list[Archive], members: list[_Member], labelling: Labelling, reading: Reading, notes: Notes
    ) -> None:
        super().__init__(labelling.labels, labelling.class_names, reading, notes.plus(labelling.remark))
        self._shards = shards
        self._names = PackedStrings("/".join(m.parts) for m in members)
        self._where = np.array([(m.shard, m.offset, m.size) for m in members], dtype=np.int64)  # (N, 3)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, i: int) -> bytes:
        shard, offset, size = self._where[i].tolist()
        check_size(size, self.reading)
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

    def stamp(self) -> bytes:
        return file_stamp(shard.path for shard in self._shards) + self._where.tobytes()

    def name(self, i: int) -> str:
        return f"{self._shards[self._where[i, 0]].address}::{self._names[i]}"


class TarFolder:
    """A folder of all archives together, as `_layout.py` wants it."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._below: dict[str, TarFolder] = {}
        self._here: list[_Member] = []

    def add(self, member: _Member) -> None:
        folder = self
        for part in member.parts[:-1]:
            if part not in folder._below:
                folder._below[part] = TarFolder(part)
            folder = folder._below[part]
        folder._here.append(member)

    def images_here(self) -> list[str]:
        return sorted(member.parts[-1] for member in self._here)

    def folders(self) -> list[TarFolder]:
        return [self._below[name] for name in sorted(self._below)]

    def images(self) -> list[Found]:
        """All images, by shard, then by path."""
        return sorted(self._all(()), key=lambda found: (found.at.shard, found.parts, found.at.offset))

    def pass_over(self, kept: set[str]) -> None:
        """Do nothing: all members were counted when the archive was read."""

    def _all(self, above: tuple[str, ...]) -> Iterator[Found]:
        for member in self._here:
            yield Found((*above, member.parts[-1]), member)
        for name, folder in self._below.items():
            yield from folder._all((*above, name))


def open_tar(request: Request) -> TarSource:
    """Open `tar:PATTERN`, with `*`, `?`, `[...]` and ranges such as {000..012}; it may be a URL (see `_remote.py`).

    Labels come from members beside the images (`_tar_labels.py`), or else from the folders in the archives, by the
    rules of `_layout.py`. Images are sorted by shard, then by path.
    """
    pattern = os.path.expanduser(request.arg)
    patterns = [pattern] if os.path.isfile(pattern) else expand_ranges(pattern)  # braces may be part of a name
    shards = local_copies(patterns) if is_remote(request.arg) else [f for pattern in patterns for f in _files(pattern)]
    account = Account()
    label_files: LabelFiles = {}
    root = TarFolder()
    everywhere: list[Stem] = []
    for number, shard in enumerate(shards):
        for member in _scan(number, shard, account, label_files, request.fields.label):
            root.add(member)
            everywhere.append((number, member.parts))
    what = f"tar {request.arg!r}"
    if not everywhere:
        said = account.line() or "it is empty"
        raise ValueError(f"no image in {what}: {said} (known extensions: {' '.join(EXTENSIONS)})")
    try:
        layout = understand(root)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    hint = "put the images in folders train/ and val/, or open the other shards instead"
    found = images_of(layout, chosen_split(layout, request, what, hint))
    members: list[_Member] = found.images
    stems = [(member.shard, member.parts) for member in members]
    labelling = labels_of_members(label_files, stems, everywhere, request.fields.label, what)
    notes = found.notes
    if labelling.labels is None:
        notes, labelling = notes.plus(labelling.remark), found.labelling
    return TarSource(shards, members, labelling, request.reading, notes.plus(account.line()))


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


def _scan(
    number: int, shard: Archive, account: Account, label_files: LabelFiles, label_field: str | None
) -> list[_Member]:
    """Return the images of one archive; add label files, and count the members that are passed over."""
    images: list[_Member] = []
    odd: list[str] = []
    with _Bounded(io.FileIO(shard.path)) as file:
        end = os.fstat(file.fileno()).st_size
        start = file.read(6)
        for magic, packer in _COMPRESSED.items():
            if start.startswith(magic):
                raise ValueError(
                    f"{shard.address} is compressed ({packer}), which allows no random access: decompress it first"
                )
        try:
            archives: list[tuple[tuple[str, ...], int, int]] = [((), 0, end)]
            while archives:  # an archive may hold one archive a class, as ImageNet's does; these lie in it as they are
                above, start_at, end_at = archives.pop(0)
                file.seek(start_at)
                for info in _headers(file):
                    name = info.name if "/" in info.name else info.name.replace("\\", "/")  # as Windows writes it
                    parts = (*above, *(part for part in name.split("/") if part not in ("", ".", "..")))
                    kind = _kind(info, parts, account, nested=bool(above))
                    if kind is None:
                        continue
                    if not info.isreg() or info.issparse():
                        odd.append(info.name)
                        continue
                    if info.offset_data + info.size > end_at:
                        raise tarfile.ReadError(f"truncated, {info.name!r} ends beyond the file's {end_at:,} bytes")
                    if kind == "archive":
                        inner = (*parts[:-1], parts[-1][: -len(".tar")])
                        archives.append((inner, info.offset_data, info.offset_data + info.size))
                    elif kind == "image":
                        images.append(_Member(parts, number, info.offset_data, info.size))
                    elif info.size > LABEL_BYTES:
                        raise tarfile.ReadError(f"{info.name!r} has {info.size:,} bytes, expected a label")
                    else:
                        file.seek(info.offset_data)
                        add_label_file(label_files, number, parts, file.read(info.size), label_field)
        except LabelError as error:
            raise ValueError(f"{shard.address}: {error}") from None
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
    return images


def _kind(
    info: tarfile.TarInfo, parts: tuple[str, ...], account: Account, *, nested: bool
) -> Literal["image", "label", "archive"] | None:
    """Tell what a member is; None for one that is passed over."""
    if not parts or info.isdir() or not all(map(account.takes_folder, parts[:-1])):
        return None
    name = parts[-1].lower()
    if name.endswith(LABEL_SUFFIXES) and not name.startswith("."):
        return "label"
    if name.endswith(".tar") and not name.startswith(".") and not nested:
        return "archive"
    return "image" if account.takes_file(parts[-1]) else None


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
