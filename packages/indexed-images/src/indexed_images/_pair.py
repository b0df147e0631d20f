"""Training images and test images whose labels mean the same classes."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from ._dataset import IndexedImages, OnCorrupt
from ._layout import few
from ._open import open_images
from ._source import NoSuchSplit
from ._vocabulary import Labelled, unite


class TrainAndTest(NamedTuple):
    """Two sets of images with one vocabulary of classes.

    Attributes:
        train: Training images.
        test: Held-out images, or None if there are none.
        remarks: Sentences on how the images were understood, for the header of a run.
    """

    train: IndexedImages
    test: IndexedImages | None
    remarks: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line on what was understood: `1,240 images, 12 classes (cat, dog, ...), 310 for the score from val/`."""
        said = f"{len(self.train):,} images, {_classes(self.train)}"
        if self.test is not None and self.train.labels is not None:
            source = self.test.place or (self.test.spec if self.test.spec != self.train.spec else "")
            said += f", {len(self.test):,} for the score" + (f" from {source}" if source else "")
        return said


def open_train_and_test(
    data: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    *,
    on_corrupt: OnCorrupt = "raise",
    **options: Any,
) -> TrainAndTest:
    """Open training images, and test images of the same classes.

    Labels of both sets become indices into one vocabulary, by name: training classes first, then those that only test
    images have. Pixels of both have the same range. Training labels of a single class are dropped, as any score would
    be 100 %.

    Args:
        data: Training images; a spec or path, see `open_images`.
        test: Test images: the val split of this spec, or all of it if it has no splits. None means the val split of
            `data`, if there is one.
        on_corrupt: What happens to a corrupt training image. A corrupt test image is always an error.
        options: Of `open_images`, for both sets.

    Returns:
        Both sets.

    Raises:
        OpenError: A ValueError with the spec at fault, for whatever `open_images` raises, or if the two sets have no
            class in common or labels of different kinds.

    Example:
        ```python
        train, test, remarks = open_train_and_test("folder:photos", "list:held_out.txt")
        ```
    """
    train = _open(data, "train", False, on_corrupt, options)
    held_out, split = None, "val"
    try:
        held_out = _open(test if test is not None else data, split, test is not None, "raise", options)
    except NoSuchSplit:
        if test is not None:
            split = "train"
            held_out = _open(test, split, True, "raise", options)
    ranges: list[str] = []
    if held_out is not None and (ranges := _compared_ranges(train, held_out)):
        options = options | {"pixel_range": train.pixel_range}
        held_out = _open(test if test is not None else data, split, test is not None, "raise", options)
    sets = [train] if held_out is None else [train, held_out]
    remarks = [said for images in sets for said in images.remarks] + ranges
    if held_out is not None:
        remarks += _overlap(train, held_out)
    remarks += _one_vocabulary(sets)
    return TrainAndTest(train, held_out, tuple(dict.fromkeys(remarks)))


class OpenError(ValueError):
    """Images that cannot be opened.

    Attributes:
        spec: The spec at fault.
        of_test: Whether it is the one of the test images.
    """

    def __init__(self, message: str, spec: str, *, of_test: bool) -> None:
        super().__init__(message)
        self.spec, self.of_test = spec, of_test


def _open(
    spec: str | os.PathLike[str], split: str, of_test: bool, on_corrupt: OnCorrupt, options: dict[str, Any]
) -> IndexedImages:
    try:
        return open_images(spec, split, on_corrupt=on_corrupt, **options)
    except NoSuchSplit:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise OpenError(str(error), str(spec), of_test=of_test) from error


def _compared_ranges(train: IndexedImages, test: IndexedImages) -> list[str]:
    """Return a remark if two ranges were found that differ. Raises OpenError if the sets cannot be of one kind."""
    if train.pixel_range is None or test.pixel_range is None or train.pixel_range == test.pixel_range:
        return []  # the range of 8 bits is never in doubt
    (low, high), (test_low, test_high) = train.pixel_range, test.pixel_range
    said = (
        f"pixels reach from {low:g} to {high:g} in training images, from {test_low:g} to {test_high:g} in test images"
    )
    if test_high > high or test_low < low or high > 15 * test_high:
        raise OpenError(
            f"{said}: open sets of one range, or name the range of both with pixel_range (--pixel-range LOW,HIGH)",
            test.spec,
            of_test=True,
        )
    return [f"{said}; both are read by the range of the training images"]


def _one_vocabulary(sets: list[IndexedImages]) -> list[str]:
    """Give the sets one vocabulary, in place. Return remarks."""
    labelled = [images for images in sets if images.labels is not None]
    if not labelled:
        return []
    of_test = labelled[0] is not sets[0] or len(labelled) > 1
    try:
        labels, class_names = unite(
            [Labelled(images.labels.numpy(), images.class_names, images.spec) for images in labelled]  # type: ignore[union-attr]
        )
    except ValueError as error:
        raise OpenError(str(error), sets[-1].spec, of_test=of_test) from None
    for images, own in zip(labelled, labels, strict=True):
        images.labels, images.class_names = torch.from_numpy(np.ascontiguousarray(own)), class_names
    train, test = sets[0].labels, sets[-1].labels
    remarks = []
    if train is not None and train.ndim == 1 and len(train.unique()) < 2:
        remarks.append(f"all images are of one class, {_name(sets[0], int(train[0]))}, so there are no labels")
        sets[0].labels = sets[0].class_names = None
    elif len(labelled) == 2 and train is not None and test is not None and train.ndim == 1:
        remarks += _one_sided(sets[0], sets[1])
    return remarks


def _one_sided(train: IndexedImages, test: IndexedImages) -> list[str]:
    """Return remarks on classes that only one of two sets has. Raises OpenError if they have none in common."""
    assert train.labels is not None
    assert test.labels is not None
    known, asked = set(train.labels.unique().tolist()), set(test.labels.unique().tolist())
    if not known & asked:
        raise OpenError(
            f"no class in common: {few([_name(train, k) for k in sorted(known)])} in {train.spec}, "
            f"{few([_name(test, k) for k in sorted(asked)])} in {test.spec}",
            test.spec,
            of_test=True,
        )
    remarks = []
    if new := sorted(asked - known):
        n = int(torch.isin(test.labels, torch.tensor(new)).sum())
        names = few([_name(test, k) for k in new])
        remarks.append(f"only among the test images: {names}; these {n:,} images count as wrong")
    if absent := sorted(known - asked):
        remarks.append(f"only among the training images: {few([_name(train, k) for k in absent])}")
    return remarks


def _overlap(train: IndexedImages, test: IndexedImages) -> list[str]:
    """Return a remark if files of the test set are training images, too. Links to single files are not followed."""
    if not train.has_files or not test.has_files:
        return []
    asked = set(_places(test))
    n = len(asked.intersection(_places(train)))
    return [f"{n:,} of the {len(test):,} test images are training images, too: the score is too good"] if n else []


def _places(images: IndexedImages) -> Iterator[str]:
    real = functools.cache(os.path.realpath)  # by folder, as a million images would take minutes
    for i in range(len(images)):
        folder, name = os.path.split(images.name(i))
        yield os.path.join(real(folder), name)


def _classes(images: IndexedImages) -> str:
    if images.labels is None:
        return "no labels"
    if images.labels.ndim == 2:
        return f"{images.labels.shape[1]:,} classes, several an image"
    present = images.labels.unique().tolist()
    names = [_name(images, k) for k in present[:2]]
    return f"{len(present):,} classes ({', '.join(names)}{', ...' if len(present) > 2 else ''})"


def _name(images: IndexedImages, label: int) -> str:
    name = str(label) if images.class_names is None else images.class_names[label]
    return name if name == name.strip() and name.isprintable() else repr(name)  # quoted where it would mislead
