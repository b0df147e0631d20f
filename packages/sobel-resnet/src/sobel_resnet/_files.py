"""Read weights files as plain tensors and metadata, without ever running code from them."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open


def read_weights(path: Path) -> tuple[Mapping[Any, Any], dict[str, str]]:
    """Read a file's top-level mapping and its safetensors metadata ({} for torch files).

    The first bytes of the file decide its format. Memory is never allocated for a size that only a header claims:
    safetensors are mapped after offsets and file size were found to agree, and the records of a zip are checked first.
    A tensor of a torch file may still have a shape larger than its storage, by a stride of 0.

    Raises FileNotFoundError, or a ValueError of one line if the file is damaged, would run code or holds no mapping.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # safetensors: the header's length in 8 bytes, then the header in JSON
        try:
            with safe_open(path, framework="pt", device="cpu") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(_damaged(path, error)) from None
    try:
        if head.startswith(b"PK"):
            _check_zip(path)
        # Pass an open file, because torch chooses a reader by the suffix of a path. Whatever matters is raised as an
        # error below, so warnings are dropped.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)|(?:class|type|function) (\S+)", str(error)):
            name = one_line(next(filter(None, wanted.groups())), 120)
            raise ValueError(
                f"{path}: refused, the file asks to run code ({name}) and nothing of it was run; "
                "where you trust the file, load it and save only its state_dict"
            ) from None
        raise ValueError(
            f"{path}: refused, a pickle that is damaged or holds more than tensors and plain containers; "
            "nothing of it was run"
        ) from None
    except Exception as error:  # torch raises RuntimeError, KeyError, TypeError, struct.error, ... on damaged files
        raise ValueError(_damaged(path, error)) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a state_dict or a checkpoint holding one, got a {type(content).__name__}")
    return content, {}


def one_line(text: str, limit: int = 800) -> str:
    """Make text that may quote names from a file safe to print: escape control characters and cut at `limit`."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return text if len(text) < limit else text[:limit] + "..."


def _check_zip(path: Path) -> None:
    """Raise if a record is compressed (torch.save never does that) or has a wrong checksum (torch.load ignores it)."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("compressed, which torch.save never does and which may unpack to any size")
        # All checksums are 0 in files written under torch.serialization.set_crc32_options(False).
        if any(record.CRC for record in records) and (damaged := archive.testzip()):
            raise ValueError(f"wrong checksum of {damaged}")


def _damaged(path: Path, error: Exception) -> str:
    reason = one_line((str(error) or type(error).__name__).splitlines()[0], 120)
    return f"{path}: not a readable weights file, truncated or of another format ({reason}); fetch or save it again"
