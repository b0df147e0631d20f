"""The source `digits`."""

import numpy as np

from ._hash import hash64, keys
from ._source import ArraySource, Request

_DIGITS_STREAM = 2  # random stream; draw_shapes uses 0 and 1


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
