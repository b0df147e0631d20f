"""Find the image files that a table names."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._decode import EXTENSIONS
from ._layout import few, split_of_name
from ._listed import require_images

_USUAL_FOLDERS = {
    "images",
    "image",
    "imgs",
    "img",
    "photos",
    "pictures",
    "jpg",
    "jpeg",
    "jpegs",
    "png",
    "data",
    "files",
}
_SAMPLE = 100
_FOLDERS = 100  # subfolders that are looked into


class FoundFiles(NamedTuple):
    """Paths of images.

    Attributes:
        paths: One an image.
        remark: A sentence on where they were found, or None if it was where the table says.
    """

    paths: list[str]
    remark: str | None


def find_files(values: Sequence[Any], file: Path, split: str) -> FoundFiles:
    """Return the paths of images that a table names, relative to the table or to a folder beside it.

    Names may lack their extension.

    Args:
        values: Path, file name or id of each image.
        file: The table.
        split: Its split, which a folder beside the table may be named after.

    Raises:
        ValueError: If a name fits several files, or is missing.
        FileNotFoundError: If more than 1 % of the images are not there.
    """
    names = _names(values, file)
    stems = _Stems()
    base, remark = _base(names, file, split, stems)
    paths = [os.path.join(base, name) for name in names]
    without = [i for i, name in enumerate(names) if not name.lower().endswith(EXTENSIONS)]
    for i in without:
        paths[i] = stems.completed(paths[i], file)
    hint = f"names are relative to {str(file.parent)!r}, where they and the subfolders were looked for"
    require_images(paths, file, hint + (", with any extension of images" if without else ""))
    return FoundFiles(paths, remark)


def repeated(images: Sequence[Any], labels: Sequence[Sequence[Any]], splits: Sequence[str]) -> str | None:
    """Return a remark if rows name the same image again, or None."""
    times = Counter(map(str, images))
    again = sum(n - 1 for n in times.values())
    if not again:
        return None
    labels_of, splits_of = defaultdict(set), defaultdict(set)
    for i, image in enumerate(map(str, images)):
        if times[image] > 1:
            labels_of[image].add(tuple(str(column[i]) for column in labels))
            splits_of[image].add(splits[i])
    said = f"{again:,} of {len(images):,} rows name an image that an earlier row names"
    if others := sum(len(found) > 1 for found in labels_of.values()):
        said += f"; {others:,} images have several labels in rows of their own"
    if leaks := sum(len(found) > 1 for found in splits_of.values()):
        said += f"; {leaks:,} images are in several splits: the score is too good"
    return said


def _names(values: Sequence[Any], file: Path) -> list[str]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, str | int) or value == "":
            got = "no image" if value is None or value == "" else f"{value!r:.80} and no path of an image"
            raise ValueError(f"{file}: row {number:,} has {got}")
    names = [str(value) for value in values]
    odd = next((name for name in names if "\0" in name or not _is_encodable(name)), None)
    if odd is not None:
        raise ValueError(f"{file}: {odd[:80]!r} is no path of an image")
    if "://" in names[0]:
        raise ValueError(f"{file} holds addresses such as {names[0][:80]!r}: download the images and write their paths")
    with_backslash = next((name for name in names if "\\" in name), None)
    if with_backslash is not None and not os.path.exists(os.path.join(file.parent, with_backslash)):
        names = [name.replace("\\", "/") for name in names]  # written on Windows
    return names


def _base(names: list[str], file: Path, split: str, stems: "_Stems") -> tuple[Path, str | None]:
    """Return the folder that the names are relative to: the table's, or the only subfolder where they are."""
    chosen = np.unique(np.linspace(0, len(names) - 1, min(len(names), _SAMPLE)).astype(np.int64))
    sample = [names[i] for i in chosen]
    here = stems.hits(file.parent, sample)
    if here > len(sample) // 2 or all(os.path.isabs(name) for name in sample):
        return file.parent, None
    hits = {folder: n for folder in _subfolders(file.parent) if (n := stems.hits(folder, sample))}
    if not hits:
        return file.parent, None
    candidates = list(hits)
    for likely in (_is_of_split(split, file), lambda folder: folder.name.lower() in _USUAL_FOLDERS):
        if len(candidates) > 1:
            candidates = list(filter(likely, candidates)) or candidates
    if len(candidates) > 1 or here:
        where = few([f"{folder.name}/" for folder in candidates])
        raise ValueError(
            f"{file}: images such as {sample[0]!r} are in {where}{' and beside the table' if here else ''}: write the "
            "folder into the names"
        )
    return candidates[0], f"images in {candidates[0].name}/ beside the table"


def _is_of_split(split: str, file: Path) -> Callable[[Path], bool]:
    """Return a test of folders: whether their name is the split's, or the one that the table's own name says."""
    of_table = next(filter(None, map(split_of_name, [file.stem, *file.stem.replace("-", "_").split("_")])), None)
    wanted = of_table if split == "all" else split
    return lambda folder: wanted is not None and split_of_name(folder.name) == wanted


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [Path(path) for path in found[:_FOLDERS]]


class _Stems:
    """Names of images by folder and stem, so that a folder is listed once."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, list[str]]] = {}

    def hits(self, folder: Path, names: list[str]) -> int:
        """Return how many names are images of a folder, with or without their extension."""
        paths = [os.path.join(folder, name) for name in names]
        return sum(os.path.isfile(path) or bool(self._fitting(path)) for path in paths)

    def completed(self, path: str, file: Path) -> str:
        """Return a path with the extension of the only image of that name; as it is if there is none."""
        found = self._fitting(path)
        if os.path.isfile(path) or not found:
            return path
        if len(found) > 1:
            raise ValueError(f"{file}: {os.path.basename(path)!r} may be {few(found)}: write the extension")
        return os.path.join(os.path.dirname(path), found[0])

    def _fitting(self, path: str) -> list[str]:
        folder, stem = os.path.split(path)
        if folder not in self._of:
            self._of[folder] = {}
            names = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
            for name in names:
                own, extension = os.path.splitext(name)  # at the last dot: 22.05.png is the image of 22.05
                if extension.lower() in EXTENSIONS:
                    self._of[folder].setdefault(own, []).append(name)
        return self._of[folder].get(stem, [])


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
