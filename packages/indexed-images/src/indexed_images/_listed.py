"""What the benchmark sets share: a root folder, lists of `path label`, and whether the listed images are there."""

import os
import re
from pathlib import Path

import numpy as np

from ._source import NoSuchSplit, Request

_PAIR = re.compile(r"(.*[^,\s])[,\s]+(\S+)")
_LOOKED_FOR = 1_000  # images of a list: enough to meet a missing archive, milliseconds on a disk, a second on a network


def root_folder(request: Request, name: str, content: str) -> Path:
    """The folder that the spec names; raises FileNotFoundError saying what should be in it."""
    root = Path(request.arg).expanduser()
    if not request.arg or not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}: write {name}:PATH with a folder that holds {content}")
    return root


def absent(request: Request, message: str) -> Exception:
    """What to raise where the split is not there: FileNotFoundError for train, NoSuchSplit for one held out, which a
    training run can do without."""
    return FileNotFoundError(message) if request.split == "train" else NoSuchSplit(message)


def first_file(request: Request, root: Path, candidates: tuple[str, ...], name: str) -> Path:
    """The first of the candidates, relative to root, that is a file; raises as `absent` does, naming them all."""
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise absent(request, f"{name}: no file {' or '.join(candidates)} in {str(root)!r}")


def read_pairs(file: Path) -> tuple[list[str], list[str]]:
    """Paths and labels of a list with one `path label` or `path,label` a line; labels hold no space and no comma."""
    paths, labels = [], []
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            match = _PAIR.fullmatch(line.strip())
            if match is None:
                raise ValueError(
                    f"{file}, line {number}: expected `path label` or `path,label`, got {line.strip()[:80]!r}"
                )
            paths.append(match[1])
            labels.append(match[2])
    if not paths:
        raise ValueError(f"{file} names no image: expected one `path label` per line")
    return paths, labels


def class_indices(labels: list[str], n_classes: int, file: Path) -> np.ndarray:
    """Labels as int64 (N,); raises ValueError unless each is a whole number below n_classes."""
    for label in set(labels):
        if not label.isdecimal() or int(label) >= n_classes:
            raise ValueError(f"{file}: labels must be class indices from 0 to {n_classes - 1}, got {label!r}")
    return np.array(labels, dtype=np.int64)


def require_images(paths: list[str], file: Path, hint: str) -> None:
    """Raise FileNotFoundError if more than 1 % of the images looked for are absent: all, or 1,000 evenly spaced ones.

    A file that slips through is named when it is read, as any corrupt one."""
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_FOR)).astype(np.int64))
    gone = [paths[i] for i in chosen if not os.path.exists(paths[i])]
    if len(gone) > len(chosen) // 100:
        raise FileNotFoundError(
            f"{file} lists {len(paths):,} images; of {len(chosen):,} looked for, {len(gone):,} are not there, "
            f"the first is {gone[0]!r}: {hint}"
        )
