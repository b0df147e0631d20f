"""`open_images` and its table of sources."""

import difflib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from ._arrays import open_npy, open_npz
from ._classic import open_cifar10, open_cifar100, open_stl10
from ._dataset import IndexedImages, OnCorrupt
from ._digits import open_digits
from ._files import open_folder
from ._hf import open_hf
from ._imagenet import open_imagenet
from ._joined import open_joined, refuse_other_depths, split_spec
from ._list import open_list
from ._look import complete, look
from ._parquet import open_parquet
from ._places_inat import open_inat18, open_places205
from ._reading import Alpha, Fields, Reading
from ._shapes_source import open_shapes
from ._source import EncodedSource, NoSuchSplit, Request, Source
from ._tables import open_csv, open_jsonl
from ._tar import open_tar
from ._voc import open_voc07

SOURCES: dict[str, Callable[[Request], Source]] = {
    "shapes": open_shapes,
    "digits": open_digits,
    "folder": open_folder,
    "list": open_list,
    "csv": open_csv,
    "jsonl": open_jsonl,
    "parquet": open_parquet,
    "hf": open_hf,
    "npz": open_npz,
    "npy": open_npy,
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
_SOURCE_OF_SUFFIX = {
    **{".tar": "tar", ".npz": "npz", ".npy": "npy", ".txt": "list", ".lst": "list", ".csv": "csv", ".tsv": "csv"},
    **{".jsonl": "jsonl", ".parquet": "parquet"},
}

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
    pixel_range: tuple[float, float] | Literal["auto"] = "auto",
    alpha: Alpha = "white",
    max_pixels: int | None = None,
    image_field: str | None = None,
    label_field: str | None = None,
) -> IndexedImages:
    """Open the images of one source and split.

    Args:
        spec: `name` or `name:argument`, as in the README's table of specs. Or a path: a folder is opened with
            `folder:`, a file by its suffix: .tar, .npz, .npy, .csv, .tsv (`csv:`), .jsonl, .parquet, and .txt and .lst
            with `list:`.
        split: "train", "val" or "test". If a source has only one held-out split, "val" and "test" both name it.
        on_corrupt: "raise" an error for a corrupt image, or "replace" it by the next good one (see `IndexedImages`).
        seed: Seed of the drawn images, and of splits that a source does not define itself.
        download: Whether CIFAR-10, CIFAR-100 and STL-10 may be downloaded.
        upright: Whether images are rotated as their EXIF says. None means yes, except for voc07, imagenet, places205
            and inat18, whose published figures, boxes and masks refer to the images as stored.
        pixel_range: Values (low, high) that become 0 and 255, for images of more than 8 bits or of floats. "auto" finds
            them from 32 images: the smallest of 8, 9, 10, 12, 14 and 16 bits that holds their values, or 0 to 1.
        alpha: What is behind transparent pixels, "white" or "black"; "ignore" drops the transparency.
        max_pixels: Most pixels an image may have; None means `PIL.Image.MAX_IMAGE_PIXELS`, 89 million. A higher number
            raises Pillow's limit for the whole process.
        image_field: Column, field or array that holds the images of a table, if it has no usual name.
        label_field: The same for the labels; also the field of the .json members of `tar:`.

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
    if split not in ("train", "val", "test"):
        raise NoSuchSplit(f"unknown split {split!r}: 'train', 'val' or 'test'")
    if alpha not in get_args(Alpha):
        raise ValueError(f"alpha must be 'white', 'black' or 'ignore', got {alpha!r}")
    if max_pixels is not None and max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
    parts, remarks = split_spec(spec, SOURCES, split)
    specs = [part.spec for part in parts]
    for one in specs:
        if one.partition(":")[0] not in SOURCES:
            raise ValueError(_unknown(one, one.partition(":")[0]))
    if upright is None:
        upright = not {one.partition(":")[0] for one in specs} <= {*_AS_STORED}
    reading = Reading(upright, alpha, _checked_range(pixel_range), max_pixels=max_pixels)
    request = Request("", split, seed, download, reading, Fields(image_field, label_field))
    if len(parts) == 1:
        name, _, arg = specs[0].partition(":")
        source = SOURCES[name](replace(request, arg=arg, split=parts[0].split))
    else:
        source = open_joined(parts, lambda one: SOURCES[one.partition(":")[0]], request)
    if isinstance(source, EncodedSource):
        try:
            refuse_other_depths(source)
            source.reading, seen = complete(source.reading, look(source, source.reading))
        except ValueError as error:
            raise ValueError(f"{spec}: {error}") from None
        remarks += seen
    images = IndexedImages(source, spec, on_corrupt)
    images.remarks += tuple(remarks)
    return images


def _checked_range(given: tuple[float, float] | Literal["auto"]) -> tuple[float, float] | None:
    if given == "auto":
        return None
    low, high = map(float, given)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"pixel_range must be 'auto' or (low, high) with low < high, got {given!r}")
    return low, high


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
