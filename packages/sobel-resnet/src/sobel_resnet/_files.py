"""Read weights files as plain tensors and metadata, without ever running code from them."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ._kinds import folder_kind, foreign_kind
from ._shards import index_of, read_shards
from ._stand_ins import CodeError
from ._torch_files import read_torch


@dataclass(frozen=True)
class Weights:
    """The top-level mapping of a file, the metadata of a safetensors file, and the number of bytes read."""

    content: dict[Any, Any]
    metadata: dict[str, str]
    size: int


def read_weights(path: Path) -> Weights:
    """Read a file, or the files of an index.

    The first bytes of a file decide its format. Memory is never allocated for a size that only a header claims:
    safetensors are mapped after offsets and file size were found to agree, and the records of a zip are checked first.
    A tensor of a torch file may still have a shape larger than its storage, by a stride of 0. `torch.load` is not used.

    Raises FileNotFoundError, or a ValueError of one line if the file is of another kind, is damaged, would run code or
    holds no mapping.
    """
    if not path.exists():
        expected = "a safetensors or torch file (.pth, .pt, .bin, .ckpt), or the index or folder of one in parts"
        raise FileNotFoundError(f"{shown(path)}: no such file; expected {expected}")
    if index := index_of(path):
        try:
            content, size = read_shards(index, lambda shard: _read_file(shard)[0])
        except ValueError as error:
            said = one_line(str(error))
            raise ValueError(said if said.startswith(shown(path)) else f"{shown(path)}: {said}") from None
        return Weights(content, {}, size)
    if path.is_dir():
        raise ValueError(f"{shown(path)}: not a readable weights file {one_line(folder_kind(path))}")
    content, metadata = _read_file(path)
    return Weights(content, metadata, path.stat().st_size)


def _read_file(path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    with path.open("rb") as file:
        head = file.read(9)
    if kind := foreign_kind(path):
        raise ValueError(f"{shown(path)}: not a readable weights file {one_line(kind)}")
    if head[8:] == b"{":  # safetensors: the header's length in 8 bytes, then the header in JSON
        try:
            with safe_open(path, framework="pt", device="cpu") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        except Exception as error:  # torch has errors of its own for shapes that no tensor has
            raise ValueError(_damaged(path, error)) from None
    content = _read_torch(path, zipped=head.startswith(b"PK"))
    if not isinstance(content, dict):
        raise ValueError(
            f"{shown(path)}: expected a state_dict or a checkpoint holding one, got a {type(content).__name__}"
        )
    return content, {}


def _read_torch(path: Path, zipped: bool) -> Any:
    try:
        if zipped:
            _check_zip(path)
        return read_torch(path)
    except CodeError as error:
        raise ValueError(f"{shown(path)}: {asks_to_run_code(error.name)}") from None
    except Exception as error:  # nearly any error, where the file is damaged
        raise ValueError(_damaged(path, error)) from None


def shown(path: Path) -> str:
    """Return a path in one line, whatever characters are in it."""
    return one_line(str(path), 5_000)


def asks_to_run_code(name: str) -> str:
    """Return the message for a file whose tensors, or part of it, only come out by running `name`."""
    return (
        f"refused, the file asks to run code ({one_line(name, 120)}) and nothing of it was run; "
        "where you trust the file, load it and save only its state_dict"
    )


def one_line(text: str, limit: int = 800) -> str:
    """Make text that may quote names from a file safe to print: escape control characters and cut at `limit`."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return text if len(text) < limit else text[:limit] + "..."


def _check_zip(path: Path) -> None:
    """Raise if records claim more than the file holds, are compressed (torch.save never does that) or are damaged."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("compressed, which torch.save never does and which may unpack to any size")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise ValueError("its records claim more bytes than the file has")
        # All checksums are 0 in files written under torch.serialization.set_crc32_options(False).
        if any(record.CRC for record in records) and (damaged := archive.testzip()):
            raise ValueError(f"wrong checksum of {damaged}")


def _damaged(path: Path, error: Exception) -> str:
    reason = one_line((str(error) or type(error).__name__).splitlines()[0], 120)
    return (
        f"{shown(path)}: not a readable weights file, truncated or of another format ({reason}); fetch or save it again"
    )
