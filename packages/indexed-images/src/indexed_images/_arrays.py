"""`npz:` and `digits`: images that are arrays already."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ._hash import hash64, keys
from ._source import ArraySource, NoSuchSplit, Request

_DIGITS_STREAM = 2  # apart from the streams of the drawn splits


def open_npz(request: Request) -> ArraySource:
    """`npz:FILE[,VALFILE]`: uint8 `images` (N, H, W, 3) or (N, H, W), optional `labels` (N,) and `class_names`."""
    first, _, second = request.arg.partition(",")
    if request.split != "train" and not second:
        raise NoSuchSplit(f"npz {first!r} has no split {request.split!r}: name its file too, npz:FILE,VALFILE")
    file = Path(first if request.split == "train" else second).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no npz file {str(file)!r}: write npz:FILE[,VALFILE]")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in ("images", "labels", "class_names") if key in arrays}
            keys_there = sorted(arrays)
    except (ValueError, OSError, EOFError, AttributeError, TypeError, BadZipFile) as error:
        raise ValueError(f"{file} is not an npz file of plain arrays: {error}") from error
    if "images" not in found:
        raise ValueError(f"{file} has no array 'images', only {keys_there}: save it with np.savez(FILE, images=...)")
    images, labels, names = found["images"], found.get("labels"), found.get("class_names")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise ValueError(f"{file}: images must be uint8 (N, H, W, 3) or (N, H, W), got {images.dtype} {images.shape}")
    if len(images) == 0:
        raise ValueError(f"{file}: images is empty, shape {images.shape}")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise ValueError(f"{file}: labels must be integers ({len(images)},), got {labels.dtype} {labels.shape}")
    return ArraySource(
        images,
        None if labels is None else labels.astype(np.int64),
        None if names is None else [str(name) for name in names],
        str(file),
    )


def open_digits(request: Request) -> ArraySource:
    """scikit-learn's 1,797 digits, 8x8; 20 % of each class are the validation split, drawn by the seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install 'indexed-images[digits]'") from error
    scans, target = load_digits(return_X_y=True)
    order = hash64(keys(request.seed, _DIGITS_STREAM, np.arange(len(target))), 0)
    held_out = np.zeros(len(target), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(target == digit)
        held_out[members[np.argsort(order[members])][: round(0.2 * len(members))]] = True
    chosen = np.flatnonzero(held_out == (request.split != "train"))
    grey = (scans.reshape(-1, 8, 8).astype(np.int64) * 255 + 8) // 16  # 0..16 to 0..255, rounded
    names = [str(digit) for digit in range(10)]
    return ArraySource(grey[chosen].astype(np.uint8), target[chosen].astype(np.int64), names, f"digits {request.split}")
