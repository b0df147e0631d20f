"""The interface of a source of images, its two common kinds, and what sources share about splits and labels."""

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ._decode import CorruptImage, check_size, decode
from ._reading import NO_NOTES, Fields, Notes, Reading

Labels = np.ndarray | None  # int64 (N,), or (N, C) of a multi-label set


class NoSuchSplit(ValueError):
    """The source has no such split."""


@dataclass(frozen=True)
class Request:
    """The arguments of `open_images` for a source.

    `arg` is the part of the spec after the first colon.
    """

    arg: str
    split: str
    seed: int = 0
    download: bool = False
    reading: Reading = field(default_factory=Reading)
    fields: Fields = field(default_factory=Fields)


class Source(Protocol):
    """N images with labels, int64 (N,) or (N, C) of 1, 0 and -1, or without (None).

    A source is safe to use from threads, can be pickled and holds no open file.
    """

    @property
    def labels(self) -> Labels: ...

    @property
    def class_names(self) -> list[str] | None: ...

    @property
    def notes(self) -> Notes: ...

    def __len__(self) -> int: ...

    def image(self, i: int, at_least: int | None = None) -> Tensor:
        """Return image i, uint8 (3, H, W); raise CorruptImage with the reason if it cannot be read.

        An image whose short side stays at least twice `at_least` may be shrunk by a whole factor, to save memory.
        """

    def read(self, i: int) -> bytes | None:
        """Return the encoded file, or None if there is none; raise CorruptImage with the reason."""

    def stamp(self) -> bytes:
        """Return a hash that changes when the pixels do, as far as that can be told without reading all of them."""

    def name(self, i: int) -> str:
        """Return the name of image i for messages."""


class ArraySource:
    """Images in one uint8 array (N, H, W, 3) or (N, H, W).

    Attributes:
        pixel_range: Values of the file that became 0 and 255; None if they were uint8.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        labels: Labels,
        class_names: list[str] | None,
        name: str,
        notes: Notes = NO_NOTES,
        pixel_range: tuple[float, float] | None = None,
    ) -> None:
        self.labels, self.class_names, self.notes, self.pixel_range = labels, class_names, notes, pixel_range
        self._images, self._name = images, name

    def __len__(self) -> int:
        return len(self._images)

    def image(self, i: int, at_least: int | None = None) -> Tensor:
        image = torch.from_numpy(np.array(self._images[i]))
        return image.expand(3, -1, -1).contiguous() if image.ndim == 2 else image.permute(2, 0, 1).contiguous()

    def read(self, i: int) -> None:
        return None

    def stamp(self) -> bytes:
        digest = hashlib.sha256(file_stamp([self._name]))
        for i in np.unique(np.linspace(0, len(self) - 1, 16).astype(np.int64)).tolist():
            digest.update(self.image(i).numpy().tobytes())
        return digest.digest()

    def name(self, i: int) -> str:
        return f"{self._name}[{i}]"


class EncodedSource(ABC):
    """Encoded images, one file or member each; a subclass says where the bytes are.

    Attributes:
        reading: How they are decoded. `open_images` completes it from a sample of the images.
    """

    def __init__(self, labels: Labels, class_names: list[str] | None, reading: Reading, notes: Notes) -> None:
        self.labels, self.class_names, self.reading, self.notes = labels, class_names, reading, notes

    @abstractmethod
    def __len__(self) -> int: ...

    def image(self, i: int, at_least: int | None = None) -> Tensor:
        return decode(self.read(i), self.reading, at_least)

    @abstractmethod
    def read(self, i: int) -> bytes: ...

    def stamp(self) -> bytes:
        """Return what changes with the files: by default a hash of 16 of them."""
        digest = hashlib.sha256()
        for i in np.unique(np.linspace(0, len(self) - 1, 16).astype(np.int64)).tolist():
            try:
                digest.update(self.read(i))
            except CorruptImage as error:
                digest.update(str(error).encode())
        return digest.digest()

    @abstractmethod
    def name(self, i: int) -> str: ...


class FileSource(EncodedSource):
    """Encoded files that hold one image each."""

    def __init__(
        self,
        paths: Iterable[str],
        labels: Labels,
        class_names: list[str] | None,
        reading: Reading,
        notes: Notes = NO_NOTES,
    ) -> None:
        super().__init__(labels, class_names, reading, notes)
        self._paths = PackedStrings(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def stamp(self) -> bytes:
        return file_stamp(self._paths[i] for i in range(len(self)))

    def read(self, i: int) -> bytes:
        return read_file(self._paths[i], self.reading)

    def name(self, i: int) -> str:
        return self._paths[i]


def read_file(path: str, reading: Reading) -> bytes:
    """Return the content of an image file; raise CorruptImage with the reason if it cannot be read."""
    try:
        found = os.stat(path)  # before opening: a pipe would block, and a device has no end
        if not stat.S_ISREG(found.st_mode):
            raise CorruptImage("not a regular file")
        check_size(found.st_size, reading)
        with open(path, "rb") as file:
            return file.read()
    except CorruptImage:
        raise
    except (OSError, ValueError) as error:  # ValueError: the path contains a zero byte
        raise CorruptImage(getattr(error, "strerror", None) or str(error)) from error


def file_stamp(paths: Iterable[str]) -> bytes:
    """Return a hash of sizes and dates of files."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = os.stat(path)
            digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
        except (OSError, ValueError):
            digest.update(b"missing\n")
    return digest.digest()


class PackedStrings:
    """An immutable list of strings in two objects, for forked workers.

    Reading a Python string writes its reference count. A plain list of a million strings would therefore be copied,
    page by page, into every worker.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [os.fsencode(s) for s in strings]
        self._blob = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        return os.fsdecode(self._blob[self._ends[i] : self._ends[i + 1]])


def only_train(request: Request, what: str, hint: str) -> None:
    """Raise NoSuchSplit unless the requested split is train."""
    if request.split != "train":
        raise NoSuchSplit(f"{what} has no split {request.split!r}, only 'train': {hint}")
