"""The source `shapes`: drawn images, drawn block by block at first access and then kept."""

import difflib
import mmap

import numpy as np
import torch
from torch import Tensor

from ._reading import Notes
from ._resident import BLOCK
from ._shapes import MIN_SIZE, SHAPES_CLASS_NAMES, draw_shapes, shape_labels
from ._source import Request

_DEFAULTS = {"n": 10_000, "n_val": 2_000, "size": 32}


def open_shapes(request: Request) -> "ShapesSource":
    """Open `shapes[:n=10000,n_val=2000,size=32]`."""
    options = dict(_DEFAULTS)
    for item in filter(None, request.arg.split(",")):
        name, _, value = item.partition("=")
        if name not in options:
            nearest = difflib.get_close_matches(name, options, n=1, cutoff=0.3)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"shapes has no option {name!r}; known: {', '.join(options)}{hint}")
        if not value.isdecimal() or int(value) < (MIN_SIZE if name == "size" else 1):
            raise ValueError(f"shapes:{name} must be a whole number, size at least {MIN_SIZE}, got {value!r}")
        options[name] = int(value)
    split = "train" if request.split == "train" else "val"
    return ShapesSource(request.seed, split, options["n" if split == "train" else "n_val"], options["size"])


class ShapesSource:
    """n drawn images, kept in anonymous shared memory so that forked workers draw each block only once.

    No lock is needed: a block that two processes draw is the same, and its flag is set after its pixels.
    """

    notes = Notes()

    def __init__(self, seed: int, split: str, n: int, size: int) -> None:
        self.labels = shape_labels(seed, split, np.arange(n))
        self.class_names = list(SHAPES_CLASS_NAMES)
        self._world = (seed, split, n, size)
        self._images = _shared(n, 3, size, size)
        self._drawn = _shared(-(-n // BLOCK))

    def __reduce__(self) -> tuple[object, ...]:
        return ShapesSource, self._world

    def __len__(self) -> int:
        return len(self._images)

    def image(self, i: int, at_least: int | None = None) -> Tensor:
        block, (seed, split, n, size) = i // BLOCK, self._world
        if not self._drawn[block]:
            indices = range(block * BLOCK, min((block + 1) * BLOCK, n))
            self._images[indices.start : indices.stop] = draw_shapes(seed, split, indices, size).images.numpy()
            self._drawn[block] = 1
        return torch.from_numpy(self._images[i].copy())

    def read(self, i: int) -> None:
        return None

    def stamp(self) -> bytes:
        return repr(self._world).encode()

    def name(self, i: int) -> str:
        return f"shapes[{i}]"


def _shared(*shape: int) -> np.ndarray:
    """Return uint8 zeros that forked processes share; only pages that are written take memory."""
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=np.uint8).reshape(shape)
