"""Cache of features in a folder: one .npy file per column, and a JSON file that records the complete rows."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arrays import as_tensor

_RECORD_BYTES = 64 * 2**20  # a killed process loses at most this much
_HEADER_BYTES = 192  # fixed, so that the number of rows can be written when it is known


def features_key(state_dict: Mapping[str, Any], *strings: str) -> str:
    """Name a cache of features by what they depend on.

    Args:
        state_dict: Of the network. The key depends on names, dtypes, shapes and bytes of the tensors or arrays, not on
            their order or device. Other entries count by their repr.
        strings: Whatever else the features depend on, such as data set, split and transform.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        if isinstance(value, np.ndarray):
            value = as_tensor(value)
        if isinstance(value, Tensor):
            digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(repr((name, value)).encode())
    digest.update(repr(strings).encode())
    return digest.hexdigest()


class FeatureCache:
    """Columns of equally many rows in a folder, appended batch by batch, then opened as memory maps.

    Recorded rows survive a killed process; rows after them are cut off on opening. Only one process may write. Files
    are read without pickle. Raises ValueError if the folder was made for another spec.
    """

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder, self.spec = folder, spec
        self.n_rows, self.complete = 0, False
        self._columns: dict[str, tuple[str, list[int]]] = {}  # name -> (numpy dtype, shape of a row)
        self._files: dict[str, Any] = {}
        self._unrecorded = 0
        self._record_path = folder / "features.json"
        if self._record_path.exists():
            record = json.loads(self._record_path.read_text())
            if record["spec"] != spec:
                raise ValueError(f"{folder} holds features of {record['spec']}, asked for {spec}: use another folder")
            self.n_rows, self.complete = record["rows"], record["complete"]
            self._columns = {name: (dtype, shape) for name, (dtype, shape) in record["columns"].items()}

    @property
    def names(self) -> set[str]:
        """Names of the columns; empty before the first row."""
        return set(self._columns)

    def append(self, columns: Mapping[str, Tensor]) -> None:
        """Write rows {name: (B, ...)}. The first call determines names, dtypes and shapes."""
        arrays = {name: x.cpu().contiguous().numpy() for name, x in columns.items()}
        layout = {name: (a.dtype.str, list(a.shape[1:])) for name, a in arrays.items()}
        if not self._columns:
            self._columns = layout
        if layout != self._columns:
            raise ValueError(f"a batch has columns {layout}, those before it had {self._columns}")
        if not self._files:
            self._open()
        for name, a in arrays.items():
            self._files[name].write(a.data)
            self._unrecorded += a.nbytes
        self.n_rows += len(next(iter(arrays.values())))
        if self._unrecorded >= _RECORD_BYTES:
            self.record()

    def record(self, complete: bool = False) -> None:
        """Flush the rows written so far to disk, and record their number."""
        for name, file in self._files.items():
            end = file.tell()
            file.seek(0)
            file.write(_header(self._columns[name], self.n_rows))
            file.seek(end)
            file.flush()
            os.fsync(file.fileno())
        record = {"spec": self.spec, "rows": self.n_rows, "complete": complete, "columns": self._columns}
        temporary = self._record_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1))
        os.replace(temporary, self._record_path)
        self._unrecorded, self.complete = 0, complete

    def close(self) -> None:
        """Record the remaining rows, and close the files."""
        if self._unrecorded:
            self.record(self.complete)
        for file in self._files.values():
            file.close()
        self._files = {}

    def load(self) -> dict[str, Tensor]:
        """Open the columns as memory maps (N, ...), copy-on-write: writing to the tensors does not change the files."""
        return {
            name: torch.from_numpy(np.load(self._path(name), mmap_mode="c", allow_pickle=False))
            for name in self._columns
        }

    def _open(self) -> None:
        """Open the files for appending after the recorded rows."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, (dtype, shape) in self._columns.items():
            file = self._files[name] = self._path(name).open("r+b" if self.n_rows else "w+b")
            size = _HEADER_BYTES + self.n_rows * np.dtype(dtype).itemsize * int(np.prod(shape))
            if self.n_rows and file.seek(0, os.SEEK_END) < size:
                raise ValueError(f"{file.name} is shorter than its {self.n_rows} rows: delete {self.folder}")
            file.truncate(size)
            file.seek(size)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def _header(column: tuple[str, list[int]], n_rows: int) -> bytes:
    """Return the header of a version 1.0 .npy file, padded to a fixed length."""
    dtype, shape = column
    text = repr({"descr": dtype, "fortran_order": False, "shape": (n_rows, *shape)})
    body = text.encode().ljust(_HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body
