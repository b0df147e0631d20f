"""The sources `npz:` and `digits`, whose images are arrays."""

import math
import os
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from ._hash import hash64, keys
from ._source import ArraySource, NoSuchSplit, Request

_NPZ_KEYS = ("images", "labels", "class_names")
_DIGITS_STREAM = 2  # random stream; draw_shapes uses 0 and 1


def open_npz(request: Request) -> ArraySource:
    """Open `npz:FILE[,VALFILE]`: uint8 `images` (N, H, W, 3) or (N, H, W), optional `labels` (N,) and `class_names`."""
    is_one_file = os.path.isfile(os.path.expanduser(request.arg))  # a comma may be part of the name
    first, _, second = (request.arg, "", "") if is_one_file else request.arg.partition(",")
    if request.split != "train" and not second:
        raise NoSuchSplit(f"npz {first!r} has no split {request.split!r}: name its file too, npz:FILE,VALFILE")
    file = Path(first if request.split == "train" else second).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no npz file {str(file)!r}: write npz:FILE[,VALFILE]")
    try:
        found, keys_there = _read_npz(file)
    except Exception as error:  # NumPy raises OSError, BadZipFile, zlib.error, SyntaxError, ... on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file} is not an npz file of plain arrays: {reason}") from error
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


def _read_npz(file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of known names, without unpickling, and the names of all arrays in the file."""
    with ZipFile(file) as archive:
        for member in archive.namelist():
            if member.removesuffix(".npy") in _NPZ_KEYS:
                _check_claim(archive, member)
    with np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in _NPZ_KEYS if key in arrays}, sorted(arrays)


def _check_claim(archive: ZipFile, member: str) -> None:
    """Raise if an array's header claims another size than the file holds: NumPy would allocate the claimed size."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        held = archive.getinfo(member).file_size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{member} holds Python objects; reading them needs unpickling, which is never done here")
    if math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{member} claims {dtype} {shape} but holds {held:,} bytes")


def open_digits(request: Request) -> ArraySource:
    """Open scikit-learn's 1,797 digits, 8x8; the seed draws 20 % of each class as the validation split."""
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
    grey = (scans.reshape(-1, 8, 8).astype(np.int64) * 255 + 8) // 16  # scale 0..16 to 0..255, rounded
    names = [str(digit) for digit in range(10)]
    return ArraySource(grey[chosen].astype(np.uint8), target[chosen].astype(np.int64), names, f"digits {request.split}")
