"""How folders of images are understood: wrappers, splits, classes. The same rules hold on disk and in archives.

1. A folder that alone holds all images, at any depth, is a wrapper and is stripped. Masks or labels beside a folder
   `images` are passed over.
2. Folders named train, val, test or alike are splits if there is a train and a held-out one. What lies beside them is
   passed over. They may also lie inside every class folder.
3. In a split, the first level of folders are the classes; deeper levels do not matter. There are no labels if an image
   lies beside the class folders.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ._labels import Labelling, encode_names
from ._reading import Notes

_WORDS = {
    "train": ("train", "training", "trn", "trainset"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation", "valset"),
    "test": ("test", "testing", "tst", "testset", "holdout", "heldout"),
    "": ("unlabeled", "unlabelled", "unsup", "unsupervised"),  # beside a train folder: no class and no split
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
# Words beside a split's that say nothing, names of folders of images, and of what lies beside them.
_FILLER_WORDS = "set split images image imgs img data dataset folder seg jpg png labels label annotations metadata list"
_IMAGE_FOLDERS = "images image imgs img jpegimages"
_MASK_FOLDERS = """
    masks mask labels label annotations annotation gt ground_truth groundtruth segmentation segmentations
    segmentationclass segmentationobject
"""
_FILLERS, _IMAGES, _MASKS = (frozenset(words.split()) for words in (_FILLER_WORDS, _IMAGE_FOLDERS, _MASK_FOLDERS))
_HELD_OUT = ("val", "test")


class Folder(Protocol):
    """A folder of images, on disk or in an archive."""

    @property
    def name(self) -> str: ...

    def images_here(self) -> Sequence[str]:
        """Return the names of the images that lie in the folder itself."""

    def folders(self) -> Sequence["Folder"]:
        """Return the subfolders that hold an image at any depth, sorted by name."""

    def images(self) -> Sequence["Found"]:
        """Return every image at any depth, sorted."""

    def pass_over(self, kept: set[str]) -> None:
        """Count what lies in this folder beside the subfolders `kept`, for the account of a source."""


class Found(NamedTuple):
    """An image below a folder.

    Attributes:
        parts: Of its path below the folder.
        at: Where it is: its path on disk, or its member of an archive.
    """

    parts: tuple[str, ...]
    at: Any


class Understood(NamedTuple):
    """The images of a split.

    Attributes:
        images: Where each image is (`Found.at`).
        labelling: Of the images.
        notes: What was stripped, and where the split was found.
    """

    images: list[Any]
    labelling: Labelling
    notes: Notes


@dataclass
class Layout:
    """The folders of a source by split, after wrappers are stripped.

    Attributes:
        splits: Split -> (class or None, folder) pairs. "all" is the only key if there are no splits. The class is None
            unless splits lie inside class folders.
        remarks: What was stripped or passed over.
        places: Split -> its folder's name.
    """

    splits: dict[str, list[tuple[str | None, Folder]]]
    remarks: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def choose(self, split: str) -> str | None:
        """Return the key of `splits` for a split that is asked for; val and test stand for each other."""
        if split in self.splits:
            return split
        if split in _HELD_OUT:
            return next((other for other in _HELD_OUT if other in self.splits), None)
        return "all" if split == "train" and "all" in self.splits else None


def split_of_name(name: str) -> str | None:
    """Return the split that a folder's name such as Train, valid, test_set or train2017 says, and None for other names.

    "" is the split of unlabelled images.
    """
    split, rest = _split_and_rest(name)
    return None if rest else split


def _split_and_rest(name: str) -> tuple[str | None, str]:
    """Return the split of the one word of a name that says any, and what else the name says."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    found = [word for word in words if word in _SPLIT_OF_WORD]
    if len(found) != 1:
        return None, name
    return _SPLIT_OF_WORD[found[0]], " ".join(word for word in words if word != found[0] and word not in _FILLERS)


def understand(root: Folder) -> Layout:
    """Find wrappers and splits.

    Raises:
        ValueError: If two folders claim the same split.
    """
    remarks: list[str] = []
    root, wrappers = _unwrapped(root, remarks)
    if wrappers:
        kind = "a split" if split_of_name(wrappers[-1]) else "no class"
        remarks.append(f"all images lie in {'/'.join(wrappers)}/, which is {kind}")
    children = root.folders()
    of_split = _by_split(children)
    held_out_only = of_split.keys() == {*_HELD_OUT} and len(children) == len(of_split) and not root.images_here()
    if held_out_only or ("train" in of_split and len(of_split) > 1):
        places = {split: f"{folder.name}/" for split, folder in of_split.items()}
        taken = {folder.name for split, folder in of_split.items() if split}
        beside = [f"{child.name}/" for child in children if child.name not in taken]
        if beside := beside + list(root.images_here()):
            remarks.append(f"passed over {few(beside)} beside {next(iter(places.values()))}")
        root.pass_over(taken)
        return Layout({split: [(None, folder)] for split, folder in of_split.items() if split}, remarks, places)
    in_classes = None if root.images_here() else _splits_in_classes(children)
    if in_classes is not None:
        in_classes.remarks[:0] = remarks
        return in_classes
    if not root.images_here():
        remarks += filter(None, (_half_split(children), _like_splits(children)))
    return Layout({"all": [(None, root)]}, remarks)


def images_of(layout: Layout, split: str) -> Understood:
    """List and label the images under one key of the layout's splits."""
    found: list[Any] = []
    classes: list[str | None] = []
    names: list[str] = []
    remarks = list(layout.remarks)
    for cls, folder in layout.splits[split]:
        inner, wrappers = (folder, []) if cls is not None else _inner(layout, split, folder, remarks)
        if wrappers and split != "all":
            remarks.append(f"all images of {folder.name}/ lie in {'/'.join(wrappers)}/, which is no class")
        for parts, at in inner.images():
            found.append(at)
            names.append(parts[-1])
            classes.append(cls if cls is not None else parts[0] if len(parts) > 1 else None)
    place = layout.places.get(split, "")
    notes = Notes(tuple(remarks), place)
    known = [cls for cls in classes if cls is not None]
    if not known:
        return Understood(found, Labelling(None), notes)
    if len(known) == len(classes):
        return Understood(found, encode_names(known, {*known, *_classes_elsewhere(layout, split)}), notes)
    n = len(classes) - len(known) - 1
    more = f" and {n:,} more images stand" if n else " stands"
    remark = f"{place}{names[classes.index(None)]}{more} beside the class folders, so there are no labels"
    return Understood(found, Labelling(None, None, remark), notes)


def few(names: Sequence[str], n: int = 3) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n:,} more" if len(names) > n else "")


def _unwrapped(folder: Folder, remarks: list[str] | None = None) -> tuple[Folder, list[str]]:
    """Go down while a single subfolder holds all images. Return where that ends, and the names on the way.

    Masks beside a folder of images are passed over. With `remarks`, that is said and other files are counted.
    """
    names: list[str] = []
    while not folder.images_here():
        below = folder.folders()
        images = [child for child in below if child.name.lower() in _IMAGES]
        masks = [child.name for child in below if child.name.lower() in _MASKS]
        if len(below) != 1 and not (len(images) == 1 and len(below) == 1 + len(masks)):
            break
        inner = below[0] if len(below) == 1 else images[0]
        if remarks is not None:
            folder.pass_over({inner.name, *masks})
            if masks and inner.name not in masks:
                remarks.append(f"passed over {few([f'{name}/' for name in masks])} beside {inner.name}/")
        folder = inner
        names.append(folder.name)
    return folder, names


def _inner(layout: Layout, split: str, folder: Folder, remarks: list[str] | None = None) -> tuple[Folder, list[str]]:
    """Return the folder of a split without wrappers. The only class of a held-out split is none, if train has it."""
    _, wrappers = _unwrapped(folder)
    if wrappers and split != "train" and "train" in layout.splits:
        trained, _ = _unwrapped(layout.splits["train"][0][1])
        if wrappers[0] in {folder.name for folder in trained.folders()}:
            return folder, []
    return _unwrapped(folder, remarks)


def _by_split(folders: Sequence[Folder]) -> dict[str, Folder]:
    """Return the folders whose names are splits, if one of them is train.

    Names may say something else, too, if they all say the same: xray_train and xray_test.
    """
    groups: dict[str, dict[str, list[Folder]]] = {}
    for folder in folders:
        split, rest = _split_and_rest(folder.name)
        if split is not None:
            groups.setdefault(rest, {}).setdefault(split, []).append(folder)
    whole = [group for group in groups.values() if "train" in group and len(group) > 1]
    found = whole[0] if len(whole) == 1 else groups.get("", {})
    if "train" in found and len(found) > 1:
        for split in filter(None, found):
            if len(found[split]) > 1:
                names = " and ".join(f"{folder.name}/" for folder in found[split])
                raise ValueError(f"{names} all look like the {split} split: open one alone, or join them as A+B")
    return {split: those[0] for split, those in found.items() if len(those) == 1 or not split}


def _splits_in_classes(classes: Sequence[Folder]) -> Layout | None:
    """Return the layout of a/{train,val}, b/{train,val}: splits inside each class folder; None if it is another."""
    splits: dict[str, list[tuple[str | None, Folder]]] = {}
    for cls in classes:
        inner = [] if cls.images_here() else cls.folders()
        of_split = {split_of_name(folder.name): folder for folder in inner}
        if not inner or None in of_split or "" in of_split or len(of_split) != len(inner):
            return None
        for split, folder in of_split.items():
            splits.setdefault(str(split), []).append((cls.name, folder))
    if "train" not in splits or len(splits) < 2:
        return None
    places = {split: f"*/{pairs[0][1].name}/" for split, pairs in splits.items()}
    return Layout(splits, [f"splits lie inside the class folders: {', '.join(places.values())}"], places)


def _half_split(classes: Sequence[Folder]) -> str | None:
    """Return a remark if some class folders hold splits and others do not."""
    with_splits = [
        cls.name for cls in classes if {"train"} < {split_of_name(folder.name) for folder in cls.folders()} - {None, ""}
    ]
    if not with_splits:
        return None
    shown = few([f"{name}/" for name in with_splits])
    return f"train/ and other splits inside {shown} are read together, as not all folders have them"


def _like_splits(classes: Sequence[Folder]) -> str | None:
    """Return a remark if names of classes look like splits."""
    of_name = {cls.name: _split_and_rest(cls.name)[0] for cls in classes}
    like = [name for name, split in of_name.items() if split]
    if "train" not in of_name.values() or len(set(filter(None, of_name.values()))) < 2:
        return None
    return f"{few([f'{name}/' for name in like])} look like splits, but are read as classes: name them train/ and val/"


def _classes_elsewhere(layout: Layout, split: str) -> set[str]:
    """Return the classes of the other splits, so that one missing from a split does not shift the other indices."""
    names: set[str] = set()
    for other, pairs in layout.splits.items():
        for cls, folder in pairs if other != split else []:
            if cls is not None:
                names.add(cls)
                continue
            inner, _ = _inner(layout, other, folder)
            if not inner.images_here():
                names |= {folder.name for folder in inner.folders()}
    return names
