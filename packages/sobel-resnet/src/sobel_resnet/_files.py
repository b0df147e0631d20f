"""Weights files as plain tensors and metadata, never as code."""

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
    """The file's mapping and its safetensors metadata ({} for torch files); the format is told from the first bytes.

    What a header claims is not allocated: safetensors are mapped once offsets and file size agree, and a zip's records
    are checked first. Tensors of a torch file may still claim more than they hold, by strides of 0.
    Raises FileNotFoundError, or ValueError in one line if the file is damaged, wants code, or holds no mapping."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # safetensors: a length in 8 bytes, then JSON
        try:
            with safe_open(path, framework="pt", device="cpu") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(_damaged(path, error)) from None
    try:
        if head.startswith(b"PK"):
            _check_zip(path)
        # An open file, as torch would judge a path by its suffix; no warnings, as what matters is raised.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)|(?:class|type|function) (\S+)", str(error)):
            name = one_line(next(filter(None, wanted.groups())), 120)
            raise ValueError(
                f"{path}: refused, the file asks to run code ({name}) and nothing of it was run; "
                "save only the state_dict where you trust it"
            ) from None
        raise ValueError(
            f"{path}: refused, a pickle that is damaged or holds more than tensors and plain containers; "
            "nothing of it was run"
        ) from None
    except Exception as error:  # damaged files make torch raise RuntimeError, KeyError, TypeError, struct.error, ...
        raise ValueError(_damaged(path, error)) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a state_dict or a checkpoint holding one, got a {type(content).__name__}")
    return content, {}


def one_line(text: str, limit: int = 800) -> str:
    """Text that may quote names from a file, fit for a terminal: printable, without line breaks, cut at `limit`."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return text if len(text) < limit else text[:limit] + "..."


def _check_zip(path: Path) -> None:
    """Raise unless all records are stored as they are, as torch.save stores them, and have their checksums, which
    torch.load does not look at."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("compressed, which torch.save never does and which may unpack to any size")
        # All zero: written under torch.serialization.set_crc32_options(False).
        if any(record.CRC for record in records) and (damaged := archive.testzip()):
            raise ValueError(f"wrong checksum of {damaged}")


def _damaged(path: Path, error: Exception) -> str:
    reason = one_line((str(error) or type(error).__name__).splitlines()[0], 120)
    return f"{path}: not a readable weights file, truncated or of another format ({reason}); fetch or save it again"
