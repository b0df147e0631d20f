"""The sources `npz:` and `npy:`, whose images are arrays."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._array_keys import Part, names_key, parts_of, possible_labels
from ._decode import CorruptImage
from ._files import chosen_split
from ._label_columns import labels_of_arrays, named
from ._labels import Labelling
from ._layout import Layout
from ._npz import Npz
from ._pixels import Extent, Range, channels_last, dark, extent, find_range, scaled, shape_of
from ._range import to_8_bit
from ._reading import Notes
from ._source import ArraySource, Request, only_train
from ._split_columns import listed


class _Place(NamedTuple):
    """Where the arrays of a split are."""

    npz: Npz
    part: Part

    @property
    def where(self) -> str:
        return f"{self.npz.file}, array {self.part.images!r}"


def open_npz(request: Request) -> ArraySource:
    """Open `npz:FILE[,VALFILE]`: images and labels under usual names, by split, and class names."""
    is_one_file = os.path.isfile(os.path.expanduser(request.arg))  # a comma may be part of the name
    first, _, second = (request.arg, "", "") if is_one_file else request.arg.partition(",")
    places = _places(first, request)
    if second:
        places = {"train": _of(places, "train"), "val": _of(_places(second, request), "val")}
    layout = Layout({split: [] for split in places}, [], {split: place.part.images for split, place in places.items()})
    hint = "name its file too, npz:FILE,VALFILE"
    split = chosen_split(layout, request, f"npz {first!r}", hint)
    place = places[split]
    for own in places.values():
        head = own.npz.heads[own.part.images]
        if own.part.labels is not None and head is not None and not head.dtype.hasobject:
            shape_of(head.shape, head.dtype, own.where)  # before labels, whose number would be wrong
    labelling = _labelling(places, split)
    images, pixel_range, remarks = _images(split, places, request.reading.pixel_range)
    said, possible = None, [] if place.part.labels else possible_labels(place.npz.heads, place.part)
    if possible or place.part != Part("images", "labels" if labelling.labels is not None else None):
        labels = f"labels in {place.part.labels!r}" if place.part.labels else "no array of labels"
        labels += f"; --label-field names one of {listed(possible)}" if possible else ""
        said = f"images in array {place.part.images!r}, {labels}"
    notes = Notes((), "" if split == "all" else layout.places[split]).plus(said, labelling.remark, *remarks)
    return ArraySource(images, labelling.labels, labelling.class_names, str(place.npz.file), notes, pixel_range)


def _places(name: str, request: Request) -> dict[str, _Place]:
    file = Path(name).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no npz file {str(file)!r}: write npz:FILE[,VALFILE]")
    npz = Npz(file)
    return {split: _Place(npz, part) for split, part in parts_of(npz.heads, request.fields, str(file)).items()}


def _of(places: dict[str, _Place], split: str) -> _Place:
    """Return the arrays of a split of a file that was named for it."""
    found = [places[name] for name in (split, "all", "test" if split == "val" else "train") if name in places]
    return found[0] if found else next(iter(places.values()))


def _labelling(places: dict[str, _Place], split: str) -> Labelling:
    """Return the labels of a split, whose kind and classes are those of all splits."""
    labels = {}
    for name, (npz, part) in places.items():
        head = npz.heads[part.images]
        array = None if part.labels is None else npz.read(part.labels)
        labels[name] = (array, head.shape[0] if head and head.shape else 0, f"{npz.file}, array {part.labels!r}")
    labelling = labels_of_arrays(labels)[split]
    if labelling.class_names is not None:
        return labelling
    for npz, part in (places[split], *places.values()):
        key = names_key(npz.heads, {part.images, part.labels})
        if key is not None:
            return named(labelling, _class_names(npz, key), f"{npz.file}, array {key!r}")
    return labelling


def _class_names(npz: Npz, key: str) -> list[str]:
    array = npz.read(key)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise ValueError(f"{npz.file}, array {key!r}: expected a list of names, got {array.dtype} {array.shape}")
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in array.tolist()]


def _images(
    split: str, places: dict[str, _Place], given: Range | None
) -> tuple[np.ndarray, Range | None, list[str | None]]:
    """Return uint8 images (N, H, W) or (N, H, W, 3) of a split, their range and remarks. All splits share a range."""
    place = places[split]
    array = place.npz.read(place.part.images)
    shape = shape_of(array.shape, array.dtype, place.where)
    pixel_range, said = given, None
    if given is None or array.dtype.kind == "b":
        pixel_range, said = find_range([extent(array, place.where), *_others(split, places, given)])
    if array.dtype == np.uint8 or pixel_range is None:
        return channels_last(array, shape.axis), None, [shape.remark, dark(array)]
    return channels_last(scaled(array, *pixel_range), shape.axis), pixel_range, [shape.remark, said]


def _others(split: str, places: dict[str, _Place], given: Range | None) -> Iterator[Extent]:
    """Yield the extents of the images of other splits, if their range is not given."""
    for name, place in places.items():
        head = place.npz.heads[place.part.images]
        if name == split or head is None or given is not None:
            continue
        if head.dtype == np.uint8:
            yield Extent(0, 255, head.dtype, place.where)
            continue
        other = place.npz.read(place.part.images)
        shape_of(other.shape, other.dtype, place.where)
        yield extent(other, place.where)


class _Mapped(Sequence[np.ndarray]):
    """Images in a .npy file, uint8 (H, W) or (H, W, 3), read from the disk one by one."""

    def __init__(self, file: Path, images: np.memmap, axis: int | None, scale: Range | None) -> None:
        self._file, self._axis, self._scale = str(file), axis, scale
        self._stored = (images.dtype, images.offset, images.shape, "C" if images.flags.c_contiguous else "F")

    def __len__(self) -> int:
        return int(self._stored[2][0])

    def __getitem__(self, i: Any) -> Any:
        dtype, offset, shape, order = self._stored
        try:  # mapped for each read: that takes microseconds, and no open file is shared between processes
            values = np.array(np.memmap(self._file, dtype, "r", offset, shape, order)[i])  # type: ignore[call-overload]
        except (OSError, ValueError) as error:
            raise CorruptImage(f"{error}: the file was changed since it was opened") from error
        return channels_last(values if self._scale is None else to_8_bit(values, *self._scale), self._axis)


def open_npy(request: Request) -> ArraySource:
    """Open `npy:FILE`: images without labels, read from the disk one by one."""
    file = Path(request.arg).expanduser()
    if not request.arg or not file.is_file():
        raise FileNotFoundError(f"no file {str(file)!r}: write npy:FILE with an array of images")
    only_train(request, f"npy {str(file)!r}", "write the validation images into a file of their own")
    try:
        images = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # ValueError, SyntaxError, OverflowError, tokenize.TokenError, ... on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file} is not an npy file of a plain array: {reason}") from error
    shape = shape_of(images.shape, images.dtype, str(file))
    pixel_range, said = request.reading.pixel_range, None
    if images.dtype == np.uint8:
        pixel_range, said = None, dark(images)
    elif pixel_range is None or images.dtype.kind == "b":
        pixel_range, said = find_range([extent(images, str(file))])
    notes = Notes().plus(shape.remark, said, "a .npy file has no labels: .npz files hold both")
    return ArraySource(_Mapped(file, images, shape.axis, pixel_range), None, None, str(file), notes, pixel_range)
