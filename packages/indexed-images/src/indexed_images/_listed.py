"""Helpers of the benchmark sets: the root folder, lists of `path label`, and a check that listed images exist."""

import os
import re
from pathlib import Path

import numpy as np

from ._source import NoSuchSplit, Request

_PAIR = re.compile(r"(.*[^,\s])[,\s]+(\S+)")
# Images of a list to look for: enough to notice a missing archive, in milliseconds on a disk and a second on a network.
_LOOKED_FOR = 1_000


def root_folder(request: Request, name: str, content: str) -> Path:
    """Return the folder that the spec names, or raise FileNotFoundError with what it should contain."""
    root = Path(request.arg).expanduser()
    if not request.arg or not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}: write {name}:PATH with a folder that holds {content}")
    return root


def absent(request: Request, message: str) -> Exception:
    """Return the error for a missing split: FileNotFoundError for train, NoSuchSplit for a held-out split.

    A training run can go on without a held-out split, so callers tell the two apart.
    """
    return FileNotFoundError(message) if request.split == "train" else NoSuchSplit(message)


def first_file(request: Request, root: Path, candidates: tuple[str, ...], name: str) -> Path:
    """Return the first of the candidates, relative to root, that is a file; raise the error of `absent` if none is."""
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise absent(request, f"{name}: no file {' or '.join(candidates)} in {str(root)!r}")


def read_pairs(file: Path) -> tuple[list[str], list[str]]:
    """Read paths and labels from lines `path label` or `path,label`; labels hold no space and no comma."""
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
    """Return labels as int64 (N,), or raise ValueError if one is not a whole number below n_classes."""
    for label in set(labels):
        if not label.isdecimal() or int(label) >= n_classes:
            raise ValueError(f"{file}: labels must be class indices from 0 to {n_classes - 1}, got {label!r}")
    return np.array(labels, dtype=np.int64)


def require_images(paths: list[str], file: str | Path, hint: str) -> None:
    """Raise FileNotFoundError if more than 1 % of the images are absent, out of at most 1,000 evenly spaced ones.

    A missing file that this does not find is reported as a corrupt image when it is read.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_FOR)).astype(np.int64))
    gone = [paths[i] for i in chosen if not os.path.exists(paths[i])]
    if len(gone) > len(chosen) // 100:
        raise FileNotFoundError(
            f"{file} lists {len(paths):,} images; of {len(chosen):,} looked for, {len(gone):,} are not there, "
            f"the first is {gone[0]!r}: {hint}"
        )
