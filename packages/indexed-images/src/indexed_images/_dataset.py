"""The dataset: indexing, the policy for corrupt files, and the resident tensor."""

import builtins
import hashlib
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ._decode import CorruptImage
from ._resident import load_resident
from ._source import ArraySource, EncodedSource, Source

OnCorrupt = Literal["raise", "replace"]


class Sample(NamedTuple):
    """One image of a dataset.

    Attributes:
        image: uint8 (3, H, W), RGB.
        index: The requested index, even if another image replaces a corrupt one.
        label: Class index; -1 without labels and in a multi-label set.
    """

    image: Tensor
    index: int  # type: ignore[assignment]  # hides tuple.index, which a sample does not need
    label: int


class Skipped(NamedTuple):
    """A corrupt file that was met.

    Attributes:
        index: Its index in the dataset.
        path: Its path, or another name of the image.
        reason: Why it could not be read.
    """

    index: int  # type: ignore[assignment]
    path: str
    reason: str


class IndexedImages(Dataset[Sample]):
    """A map-style dataset of `Sample`, created by `open_images`.

    A corrupt file raises `CorruptImage` with its name (`on_corrupt="raise"`) or is replaced by the next good image
    (`"replace"`). A replacement brings its own label, while `Sample.index` stays the requested one, so that a memory
    bank keeps one slot per index. "replace" raises too if more than 1 % of the set, and more than one file, is corrupt.

    The dataset holds no open file and can be pickled. Threads and loader workers may use it; they share one list of
    corrupt files.

    Attributes:
        spec: The text that names the source.
        labels: int64 (N,) class indices, or None. In a multi-label set (N, C): 1 present, 0 absent, -1 present but to
            be ignored (VOC's difficult objects).
        class_names: Names of the class indices or columns, or None.
        remarks: Sentences on how the source was understood: what was passed over, what was taken for a split or a
            range of pixels. Programs print them.
        place: Where in the source the split was found, such as "valid/"; empty if the source is one set.
    """

    def __init__(self, source: Source, spec: str, on_corrupt: OnCorrupt = "raise") -> None:
        if on_corrupt not in ("raise", "replace"):
            raise ValueError(f"on_corrupt must be 'raise' or 'replace', got {on_corrupt!r}")
        self.spec = spec
        self.labels: Tensor | None = None if source.labels is None else torch.from_numpy(source.labels)
        self.class_names: list[str] | None = source.class_names
        self.remarks: tuple[str, ...] = source.notes.remarks
        self.place: str = source.notes.place
        self._source = source
        self._on_corrupt = on_corrupt
        # One byte per image in shared memory, so that every process knows the corrupt files that workers met.
        self._corrupt = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._corrupt.share_memory_()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        return self._get(self._checked(index))

    def _get(self, asked: int, at_least: int | None = None) -> Sample:
        try:
            return self._sample(asked, asked, at_least)
        except CorruptImage as error:
            self._corrupt[asked] = 1
            if self._on_corrupt == "raise":
                raise CorruptImage(f"{_shown(self._source.name(asked))} (index {asked}): {error}") from error
        return self._replacement(asked, at_least)

    def bytes(self, index: SupportsIndex) -> builtins.bytes | None:
        """Read the encoded file of an image.

        Args:
            index: Index of the image.

        Returns:
            The bytes of the file, or None if the source has no encoded files.

        Raises:
            CorruptImage: If the file cannot be read.
        """
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
        """Decode all images, with a pool of threads, into one tensor.

        Args:
            device: Where the tensor is to be.
            size: Side S of the images. The short side is resized to S (bilinear, antialiased) and the centre is
                cropped. A JPEG of more than four times that size is shrunk by a whole factor while it is read. None
                keeps the images as they are.
            progress: Called with the number of images done and N.

        Returns:
            uint8 (N, 3, S, S), or (N, 3, H, W) if `size` is None.

        Raises:
            ValueError: If `size` is below 1, or None while the images differ in size.
            CorruptImage: If a file is corrupt, by the policy of the dataset.
        """
        return load_resident(lambda i: self._get(i, size).image, len(self), device, size, progress)

    def fingerprint(self) -> str:
        """Hash of the set: names and labels, how files are decoded, and sizes and dates of the files.

        Returns:
            64 hexadecimal digits. They change when a file is replaced, renamed or labelled otherwise. Sources without
            files of their own are told apart by 16 images.
        """
        digest = hashlib.sha256(repr(self._source.reading if isinstance(self._source, EncodedSource) else "").encode())
        for i in range(len(self)):
            digest.update(self.name(i).encode(errors="surrogateescape") + b"\0")
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        digest.update(self._source.stamp())
        return digest.hexdigest()

    @property
    def pixel_range(self) -> tuple[float, float] | None:
        """Pixel values (low, high) that become 0 and 255; None if all images have 8 bits."""
        if isinstance(self._source, ArraySource):
            return self._source.pixel_range
        return self._source.reading.pixel_range if isinstance(self._source, EncodedSource) else None

    @property
    def has_files(self) -> bool:
        """Whether the images are encoded files, rather than arrays."""
        return isinstance(self._source, EncodedSource)

    @property
    def skipped(self) -> list[Skipped]:
        """The corrupt files met so far, in any process, each once, in the order of their indices."""
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
        """Return the name of an image.

        Args:
            index: Index of the image.

        Returns:
            Its path, `archive::member` in a tar, or `source[index]`.
        """
        return self._source.name(self._checked(index))

    def _checked(self, index: SupportsIndex) -> int:
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range for {len(self)} images")
        return i % len(self)

    def _sample(self, i: int, asked: int, at_least: int | None) -> Sample:
        label = int(self.labels[i]) if self.labels is not None and self.labels.ndim == 1 else -1
        return Sample(self._source.image(i, at_least), asked, label)

    def _replacement(self, asked: int, at_least: int | None) -> Sample:
        self._refuse_too_many()
        for i in (*range(asked + 1, len(self)), *range(asked)):
            try:
                return self._sample(i, asked, at_least)
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
        # Reasons are not shared between processes, so read the file again.
        try:
            self._source.image(i)
        except CorruptImage as error:
            return str(error)
        return "could not be read before, but can be read now"


def _shown(name: str) -> str:
    """Make a file name safe to print: escape line breaks, control characters and bytes that are not UTF-8."""
    return name if name.isprintable() else ascii(name)
