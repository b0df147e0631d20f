"""Read a torch file, of either format, with stand-ins for whatever is not a tensor or a plain value."""

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ._pickles import read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the format before torch 1.6


def read_torch(path: Path) -> Any:
    """Return the object of a torch file, or of a plain pickle; nothing is run.

    Raises CodeError if the file names something that runs code, and errors of many kinds if it is damaged.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            with zipfile.ZipFile(file) as archive:
                return _read_zip(archive, file)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _read_legacy(content)


def _read_zip(archive: zipfile.ZipFile, file: IO[bytes]) -> Any:
    names = archive.namelist()
    main = next(name for name in names if name.rpartition("/")[2] == "data.pkl")
    root = main.removesuffix("data.pkl")
    if f"{root}byteorder" in names and _record(archive, file, f"{root}byteorder") != b"little":
        raise ValueError("saved on a big-endian machine")
    read: dict[str, bytearray] = {}

    def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        if key not in read:
            read[key] = _record(archive, file, f"{root}data/{key}")
        return _numbers(read[key], dtype, numel)

    return read_pickle(io.BytesIO(_record(archive, file, main)), storage)


def _record(archive: zipfile.ZipFile, file: IO[bytes], name: str) -> bytearray:
    """Read an uncompressed record. `zipfile` would compare the checksum, which torch can be told not to write."""
    info = archive.getinfo(name)
    file.seek(info.header_offset)
    signature, n_name, n_extra = struct.unpack("<4s22xHH", file.read(30))
    if signature != b"PK\3\4":
        raise ValueError(f"no record at the place of {name}")
    file.seek(n_name + n_extra, io.SEEK_CUR)
    return bytearray(file.read(info.file_size))


def _read_legacy(content: mmap.mmap) -> Any:
    """Read three pickles (magic number, version, system), the object, the keys of its storages, and these in turn."""
    types: dict[str, torch.dtype] = {}
    read: dict[str, bytearray] = {}

    def note(dtype: torch.dtype, key: str, numel: int) -> None:
        types[key] = dtype

    first = read_pickle(content, note)  # type: ignore[arg-type]  # an mmap has what the reader needs of a file
    if not isinstance(first, int) or first != _MAGIC:
        return first
    read_pickle(content, note)  # type: ignore[arg-type]
    if read_pickle(content, note)["little_endian"] is not True:  # type: ignore[arg-type]
        raise ValueError("saved on a big-endian machine")
    start = content.tell()
    read_pickle(content, note)  # type: ignore[arg-type]
    keys = read_pickle(content, note)  # type: ignore[arg-type]
    if not isinstance(keys, list):
        raise TypeError("the keys of the storages are not a list")
    for key in keys:
        if not isinstance(key, str) or key not in types:
            raise ValueError("a storage of an unknown type")
        n_bytes = int.from_bytes(content.read(8), "little") * types[key].itemsize
        read[key] = bytearray(content.read(n_bytes))
    content.seek(start)
    return read_pickle(content, lambda dtype, key, numel: _numbers(read[key], dtype, numel))  # type: ignore[arg-type]


def _numbers(data: bytearray, dtype: torch.dtype, numel: int) -> Tensor:
    # torch compares the count with the length of the data
    return torch.frombuffer(data, dtype=dtype, count=numel) if numel else torch.empty(0, dtype=dtype)
