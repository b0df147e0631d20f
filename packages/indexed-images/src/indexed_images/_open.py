"""The table of sources, and the way in."""

import difflib
from collections.abc import Callable
from pathlib import Path

from ._arrays import open_digits, open_npz
from ._classic import open_cifar10, open_cifar100, open_stl10
from ._dataset import IndexedImages, OnCorrupt
from ._files import open_folder, open_list
from ._imagenet import open_imagenet
from ._places_inat import open_inat18, open_places205
from ._shapes_source import open_shapes
from ._source import NoSuchSplit, Request, Source
from ._tar import open_tar
from ._voc import open_voc07

SOURCES: dict[str, Callable[[Request], Source]] = {
    "shapes": open_shapes,
    "digits": open_digits,
    "folder": open_folder,
    "list": open_list,
    "npz": open_npz,
    "tar": open_tar,
    "cifar10": open_cifar10,
    "cifar100": open_cifar100,
    "stl10": open_stl10,
    "voc07": open_voc07,
    "imagenet": open_imagenet,
    "places205": open_places205,
    "inat18": open_inat18,
}

# Published figures, and boxes and masks, are of the pixels as stored: torchvision's loaders do not look at EXIF.
_AS_STORED = ("voc07", "imagenet", "places205", "inat18")


def open_images(
    spec: str,
    split: str = "train",
    *,
    on_corrupt: OnCorrupt = "raise",
    seed: int = 0,
    download: bool = False,
    upright: bool | None = None,
) -> IndexedImages:
    """The images of one source and split: `name` or `name:argument`, see the README's table of specs.

    split: "train", "val" or "test"; where a source has only one of the last two, either names it. on_corrupt: "raise",
    or "replace" by the next good index (see `IndexedImages`). seed: of the drawn world and of drawn splits. download:
    may the classic sets be fetched. upright: turn photographs as their EXIF says; None means all but those of voc07,
    imagenet, places205 and inat18, whose published figures, boxes and masks are of images as stored. Raises ValueError
    for an unknown spec, `NoSuchSplit` (a ValueError), and FileNotFoundError where nothing is.
    """
    name, _, arg = spec.partition(":")
    if name not in SOURCES:
        raise ValueError(_unknown(spec, name))
    if split not in ("train", "val", "test"):
        raise NoSuchSplit(f"unknown split {split!r}: 'train', 'val' or 'test'")
    upright = name not in _AS_STORED if upright is None else upright
    return IndexedImages(SOURCES[name](Request(arg, split, seed, download, upright)), spec, on_corrupt)


def _unknown(spec: str, name: str) -> str:
    nearest = difflib.get_close_matches(name.lower(), SOURCES, n=1, cutoff=0.5)
    if spec and Path(spec).is_dir():
        hint = f"; did you mean 'folder:{spec}'?"
    else:
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown source {name!r} in spec {spec!r}; known: {', '.join(SOURCES)}{hint}"
