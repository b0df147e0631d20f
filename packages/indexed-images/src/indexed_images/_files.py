"""The sources `folder:` and `list:`, image files on disk."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ._decode import EXTENSIONS
from ._source import FileSource, Labels, Request, choose_split, encode_names, only_train

_LINE = re.compile(rf"(.*(?:{'|'.join(map(re.escape, EXTENSIONS))}))(?:\s+(\S.*))?", re.IGNORECASE)


def open_folder(request: Request) -> FileSource:
    """Open `folder:PATH`: the first level of folders are the classes; deeper levels do not matter.

    There are no labels if an image lies beside the class folders.
    """
    root = Path(request.arg).expanduser()
    if not request.arg or not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}: write folder:PATH with an existing folder")
    chosen = choose_split(_subfolders(root), request.split)
    if chosen is None:
        only_train(request, f"folder {str(root)!r}", "put the images in subfolders train/ and val/")
        roots = [root]
    else:
        roots = [root / name for name in ("train", "val", "test") if (root / name).is_dir()]
    here = root if chosen is None else root / chosen
    found = sorted(_walk(here))
    if not found:
        raise FileNotFoundError(_nothing_in(here))
    paths = [str(here.joinpath(*parts)) for parts in found]
    if any(len(parts) == 1 for parts in found):
        return FileSource(paths, None, None, request.upright)
    # Collect the classes of all splits, so that a class missing from one split does not shift the other indices.
    vocabulary = [name for r in roots for name in _subfolders(r)]
    return FileSource(paths, *encode_names([parts[0] for parts in found], vocabulary), request.upright)


def open_list(request: Request) -> FileSource:
    """Open `list:FILE` with `path[ label]` per line; a path may contain spaces and ends at its last image extension.

    Paths are relative to the file. They may be absolute or lead out of its folder, because users write lists for their
    own images. Bytes that are not UTF-8 are kept, since file names are bytes.
    """
    file = Path(request.arg).expanduser()
    if not request.arg or not file.is_file():
        raise FileNotFoundError(f"no list file {str(file)!r}: write list:FILE with one `path[ label]` per line")
    only_train(request, f"list {str(file)!r}", "write the validation images into a list of their own")
    paths: list[str] = []
    labels: list[str | None] = []
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{file}, line {number}: expected `path[ label]` with one of {' '.join(EXTENSIONS)}, got {line[:80]!r}"
            )
        paths.append(os.path.join(file.parent, match[1]))
        labels.append(match[2])
    if not paths:
        raise ValueError(f"{file} names no image: expected one `path[ label]` per line")
    return FileSource(paths, *_list_labels(file, labels), request.upright)


def _list_labels(file: Path, found: list[str | None]) -> tuple[Labels, list[str] | None]:
    labels = [label for label in found if label is not None]
    if not labels:
        return None, None
    if len(labels) < len(found):
        first = found.index(None) + 1
        raise ValueError(
            f"{file}: {len(labels)} of {len(found)} images have a label, image {first} has none: label all or none"
        )
    if all(re.fullmatch(r"[+-]?\d{1,18}", label) for label in labels):
        return np.array([int(label) for label in labels], dtype=np.int64), None
    return encode_names(labels, labels)


def _subfolders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        # not entry.is_dir(), which raises on a link that points to itself
        return [entry.name for entry in entries if os.path.isdir(entry.path) and _wanted(entry.name)]


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"  # no hidden files, nor those that macOS adds to archives


def _walk(root: Path) -> Iterator[tuple[str, ...]]:
    """Yield the parts of every image's path below root; follow symbolic links, but visit each folder once."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(filter(_wanted, subfolders))
        parts = Path(folder).relative_to(root).parts
        for name in files:
            if name.lower().endswith(EXTENSIONS) and _wanted(name):
                yield (*parts, name)


def _nothing_in(folder: Path) -> str:
    found = Counter(Path(name).suffix.lower() or "(no extension)" for _, _, files in os.walk(folder) for name in files)
    known = f"known extensions: {' '.join(EXTENSIONS)}"
    if not found:
        return f"no image in {str(folder)!r}: the folder is empty ({known})"
    what = ", ".join(f"{count} {suffix}" for suffix, count in found.most_common(5))
    return f"no image in {str(folder)!r}: found {what} ({known})"
