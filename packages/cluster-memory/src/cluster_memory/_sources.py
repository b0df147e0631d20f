"""Sources of rows: tensors, arrays, memory maps, DLPack objects, sliceable files, functions that yield blocks."""

import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Sliceable(Protocol):
    """A matrix of floats of which x[a:b] gives rows a to b, such as a data set of h5py or zarr."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: slice, /) -> Any: ...


Blocks = Callable[[], Iterable[Tensor | NDArray[np.floating]]]
Matrix = Tensor | NDArray[np.floating] | Sliceable | Blocks
Array = Tensor | NDArray[Any]


def as_tensor(values: Array) -> Tensor:
    """The tensor itself, or a NumPy array as a CPU tensor of the same dtype, which shares its memory if it can."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch warns about read-only arrays and refuses negative strides
    return torch.from_numpy(array)


class Source:
    """This process's rows (n, dim) of a matrix, as float32 blocks. Only the block that is read is converted.

    x is a tensor, an array or memory map, an object with `__dlpack__`, an object with `shape` and slices of rows, or a
    function without arguments that returns a new pass over blocks (n_i, dim). For a function, one pass is made to count
    the rows."""

    def __init__(self, x: Matrix) -> None:
        if not isinstance(x, (Tensor, np.ndarray)) and hasattr(x, "__dlpack__"):
            x = torch.from_dlpack(x)
        self._x = x
        self.device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        self.in_memory = isinstance(x, (Tensor, np.ndarray)) and not isinstance(x, np.memmap)
        # other sources may give every block in the same buffer, so a block must be used before the next one is read
        self.may_read_ahead = isinstance(x, (Tensor, np.ndarray))
        if callable(x) and not isinstance(x, Tensor):
            shapes = [tuple(_float_matrix(block).shape) for block in x()]
            widths = {width for _, width in shapes}
            if len(widths) != 1:
                raise ValueError(f"blocks must hold rows of one length, got {sorted(widths) or 'no block'}")
            self.n, self.dim = sum(n for n, _ in shapes), widths.pop()
        elif hasattr(x, "shape") and hasattr(x, "__getitem__"):
            if len(x.shape) != 2 or x.shape[1] == 0:
                raise ValueError(
                    f"x must be (N, D) with D >= 1, got {tuple(x.shape)}: flatten each sample into one row"
                )
            _float_matrix(x[0:0])
            self.n, self.dim = int(x.shape[0]), int(x.shape[1])
        else:
            hint = ": it can be read only once, pass the function that makes it" if isinstance(x, Iterator) else ""
            raise TypeError(
                "x must be a tensor, an array, a memory map or a function that yields blocks, "
                f"got {type(x).__name__}{hint}"
            )

    def blocks(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Yields each block as its slice of rows and the float32 rows, at most `size` of them, in order."""
        start = 0
        for block in self._x() if callable(self._x) else [self._x]:
            n = int(block.shape[0])
            step = max(1, -(-n // max(1, -(-n // size))))  # blocks of equal size
            if start + n > self.n or block.shape[1] != self.dim:
                raise ValueError(f"every pass must give the same {self.n} rows of length {self.dim}, got others")
            for first in range(0, n, step):
                last = min(first + step, n)
                rows = _float32(block[first:last])
                _forget_pages(block)
                yield slice(start + first, start + last), rows
            start += n
        if start != self.n:
            raise ValueError(f"every pass must give the same {self.n} rows, got {start}")

    def take(self, indices: Tensor) -> Tensor:
        """Rows (M, dim) float32 of the given row numbers (M,), in any order. A function is read once for this."""
        x = self._x
        if isinstance(x, Tensor):
            return _float32(x[indices])
        if isinstance(x, np.ndarray):
            return _float32(x[indices.numpy()])
        rows = torch.empty(len(indices), self.dim)
        if not callable(x):
            for position, i in enumerate(indices.tolist()):
                rows[position] = _float32(x[i : i + 1])[0]
        elif len(indices):
            for part, block in self.blocks(self.n):
                here = (indices >= part.start) & (indices < part.stop)
                rows[here] = block[indices[here] - part.start]
        return rows


def _forget_pages(x: Any) -> None:
    """Releases the pages of a memory map that this process has read; otherwise they count as memory used.

    The file, and what was written to it, are not affected. Maps of mode "c" are left alone, because their changes exist
    in these pages only."""
    mapped = getattr(x, "_mmap", None) if getattr(x, "mode", None) in ("r", "r+", "w+") else None
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _float_matrix(block: Any) -> Any:
    """Returns the block if it is a matrix of floats, and raises TypeError or ValueError if not."""
    is_float = block.dtype in _FLOATS if isinstance(block, Tensor) else np.dtype(block.dtype).kind == "f"
    if not is_float:
        raise TypeError(f"x must hold floats, got {block.dtype}: convert it, e.g. x.astype('float32') or x.float()")
    if len(block.shape) != 2 or block.shape[1] == 0:
        raise ValueError(f"blocks must be (n, D) with D >= 1, got {tuple(block.shape)}")
    return block


def _float32(part: Any) -> Tensor:
    """Rows as a float32 tensor, without a copy where they are float32 already."""
    if isinstance(part, Tensor):
        return part.detach().float()
    if type(part) is np.ndarray and part.dtype == np.float32 and part.flags.c_contiguous and part.flags.writeable:
        return torch.from_numpy(part)
    with np.errstate(over="ignore"):  # float64 values beyond float32 become inf, which `Rows.check_finite` reports
        return torch.from_numpy(np.array(part, dtype=np.float32))
