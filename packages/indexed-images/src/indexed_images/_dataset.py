"""The dataset itself: indexing, the policy for corrupt files, and the resident tensor."""

import builtins
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ._decode import CorruptImage
from ._resident import load_resident
from ._source import Source

OnCorrupt = Literal["raise", "replace"]


class Sample(NamedTuple):
    """image uint8 (3, H, W) RGB; index, the one asked for; label, -1 without labels and in a multi-label set."""

    image: Tensor
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a sample
    label: int


class Skipped(NamedTuple):
    """A corrupt file that was met: its own dataset index, its path, and why it could not be read."""

    index: int  # type: ignore[assignment]
    path: str
    reason: str


class IndexedImages(Dataset[Sample]):
    """A map-style dataset of `Sample`; made by `open_images`.

    A corrupt file raises `CorruptImage` naming it (`on_corrupt="raise"`), or the next good index stands in ("replace"):
    then image and label are the replacement's, and `Sample.index` stays the one asked for, so that memories keep their
    slot. When replacing, more than 1 % of the set (and more than one file) is an error. Holds no open file; pickles;
    may be used from threads and from loader workers, which share one count of corrupt files.

    labels: int64 (N,) class indices; in a multi-label set (N, C) of 1 present, 0 absent, -1 present but to be ignored
    (VOC's difficult), and `Sample.label` is -1; None without labels. class_names: of its indices or columns, or None.
    """

    def __init__(self, source: Source, spec: str, on_corrupt: OnCorrupt = "raise") -> None:
        if on_corrupt not in ("raise", "replace"):
            raise ValueError(f"on_corrupt must be 'raise' or 'replace', got {on_corrupt!r}")
        self.spec = spec
        self.labels: Tensor | None = None if source.labels is None else torch.from_numpy(source.labels)
        self.class_names: list[str] | None = source.class_names
        self._source = source
        self._on_corrupt = on_corrupt
        # One byte an image in shared memory: what a loader's workers meet is counted, and listed, in every process.
        self._corrupt = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._corrupt.share_memory_()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        asked = self._checked(index)
        try:
            return self._sample(asked, asked)
        except CorruptImage as error:
            self._corrupt[asked] = 1
            if self._on_corrupt == "raise":
                raise CorruptImage(f"{_shown(self._source.name(asked))} (index {asked}): {error}") from error
        return self._replacement(asked)

    def bytes(self, index: SupportsIndex) -> builtins.bytes | None:
        """The undecoded file of image `index`; None where the source has no encoded files."""
        i = self._checked(index)
        try:
            return self._source.read(i)
        except CorruptImage as error:
            raise CorruptImage(f"{_shown(self._source.name(i))} (index {i}): {error}") from error

    def resident(
        self,
        device: str | torch.device = "cpu",
        size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """All images as one uint8 tensor (N, 3, S, S) on `device`, decoded by a pool of threads.

        size: the short side is resized to it (bilinear, antialiased), then the centre is cropped; None keeps the images
        as they are, (N, 3, H, W), and raises ValueError if they differ. progress: called with (images done, N).
        """
        return load_resident(lambda i: self[i].image, len(self), device, size, progress)

    @property
    def skipped(self) -> list[Skipped]:
        """The corrupt files met so far, each once, by index."""
        met: list[int] = self._corrupt.nonzero().flatten().tolist()
        return [Skipped(i, self._source.name(i), self._reason(i)) for i in met]

    def __repr__(self) -> str:
        if self.labels is None:
            labels = "no labels"
        elif self.class_names is None:
            labels = "labels without names"
        else:
            labels = f"{len(self.class_names)} classes" + (", multi-label" if self.labels.ndim == 2 else "")
        return f"IndexedImages({self.spec!r}, {len(self)} images, {labels})"

    def name(self, index: SupportsIndex) -> str:
        """What image `index` is called: its path, or `archive::member`, or `source[index]`."""
        return self._source.name(self._checked(index))

    def _checked(self, index: SupportsIndex) -> int:
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range for {len(self)} images")
        return i % len(self)

    def _sample(self, i: int, asked: int) -> Sample:
        label = int(self.labels[i]) if self.labels is not None and self.labels.ndim == 1 else -1
        return Sample(self._source.image(i), asked, label)

    def _replacement(self, asked: int) -> Sample:
        self._refuse_too_many()
        for i in (*range(asked + 1, len(self)), *range(asked)):
            try:
                return self._sample(i, asked)
            except CorruptImage:
                self._corrupt[i] = 1
                self._refuse_too_many()
        raise CorruptImage(f"{self.spec}: no image can be read: {self._reason(asked)}")

    def _refuse_too_many(self) -> None:
        count, limit = int(self._corrupt.sum()), max(1, len(self) // 100)
        if count > limit:
            first = "; ".join(f"{_shown(path)}: {reason}" for _, path, reason in self.skipped[:3])
            raise CorruptImage(
                f"{self.spec}: {count} of {len(self)} images are corrupt, at most {limit} may be replaced: {first}"
            )

    def _reason(self, i: int) -> str:
        # Read again rather than remembered: the file may have been met in another process.
        try:
            self._source.image(i)
        except CorruptImage as error:
            return str(error)
        return "could not be read once, can be read now"


def _shown(name: str) -> str:
    """A file's name fit for a terminal: line breaks, control characters and bytes that are no UTF-8 escaped."""
    return name if name.isprintable() else ascii(name)
