"""`open_images` and its table of sources."""

import difflib
import os
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

# The source that opens a path, by the suffix of a file; folders are opened with `folder:`.
_SOURCE_OF_SUFFIX = {".tar": "tar", ".npz": "npz", ".txt": "list", ".lst": "list", ".tsv": "list"}

# EXIF is ignored for these: their published figures, boxes and masks refer to the pixels as stored.
_AS_STORED = ("voc07", "imagenet", "places205", "inat18")


def open_images(
    spec: str | os.PathLike[str],
    split: str = "train",
    *,
    on_corrupt: OnCorrupt = "raise",
    seed: int = 0,
    download: bool = False,
    upright: bool | None = None,
) -> IndexedImages:
    """Open the images of one source and split.

    Args:
        spec: `name` or `name:argument`, as in the README's table of specs. Or a path: a folder is opened with
            `folder:`, a .tar with `tar:`, a .npz with `npz:` and a text file (.txt, .lst, .tsv) with `list:`.
        split: "train", "val" or "test". If a source has only one held-out split, "val" and "test" both name it.
        on_corrupt: "raise" an error for a corrupt image, or "replace" it by the next good one (see `IndexedImages`).
        seed: Seed of the drawn images, and of splits that a source does not define itself.
        download: Whether CIFAR-10, CIFAR-100 and STL-10 may be downloaded.
        upright: Whether images are rotated as their EXIF says. None means yes, except for voc07, imagenet, places205
            and inat18, whose published figures, boxes and masks refer to the images as stored.

    Returns:
        The dataset.

    Raises:
        ValueError: If the spec is unknown or its content is malformed.
        NoSuchSplit: If the source does not have the split; a ValueError.
        FileNotFoundError: If the files are not there.
        ImportError: If the source needs an optional library.

    Example:
        ```python
        images = open_images("tar:shards-{000..012}.tar", on_corrupt="replace")
        image, index, label = images[3]
        ```
    """
    if not isinstance(spec, str):
        spec = _spec_of(Path(spec).expanduser())
    name, _, arg = spec.partition(":")
    if name not in SOURCES:
        raise ValueError(_unknown(spec, name))
    if split not in ("train", "val", "test"):
        raise NoSuchSplit(f"unknown split {split!r}: 'train', 'val' or 'test'")
    upright = name not in _AS_STORED if upright is None else upright
    return IndexedImages(SOURCES[name](Request(arg, split, seed, download, upright)), spec, on_corrupt)


def _spec_of(path: Path) -> str:
    """Return the spec that opens a folder or file."""
    if path.is_dir():
        return f"folder:{path}"
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r}: a Path must exist; write other specs as a str")
    if path.suffix.lower() not in _SOURCE_OF_SUFFIX:
        known = ", ".join(_SOURCE_OF_SUFFIX)
        raise ValueError(
            f"cannot tell the source of {str(path)!r}: expected a folder, a file ({known}) or a str like 'list:FILE'"
        )
    return f"{_SOURCE_OF_SUFFIX[path.suffix.lower()]}:{path}"


def _unknown(spec: str, name: str) -> str:
    nearest = difflib.get_close_matches(name.lower(), SOURCES, n=1, cutoff=0.5)
    path = Path(spec)
    if spec and (os.path.isdir(path) or (path.suffix.lower() in _SOURCE_OF_SUFFIX and os.path.isfile(path))):
        hint = f"; did you mean {_spec_of(path)!r}?"
    else:
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown source {name!r} in spec {spec!r}; known: {', '.join(SOURCES)}{hint}"
