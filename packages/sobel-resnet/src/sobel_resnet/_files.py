"""Weights files as plain tensors and metadata, never as code."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open


def read_weights(path: Path) -> tuple[Mapping[Any, Any], dict[str, str]]:
    """The file's mapping and its safetensors metadata ({} for torch files); the format is told from the first bytes.

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
        # An open file, as torch would judge a path by its suffix; no warnings, as what matters is raised.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)|(?:class|type|function) (\S+)", str(error)):
            name = next(filter(None, wanted.groups()))
            raise ValueError(
                f"{path}: refused, the file asks to run code ({name}) and nothing of it was run; "
                "save only the state_dict where you trust it"
            ) from None
        raise ValueError(
            f"{path}: refused, a pickle that is damaged or holds more than tensors and plain containers; "
            "nothing of it was run"
        ) from None
    except (EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(_damaged(path, error)) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a state_dict or a checkpoint holding one, got a {type(content).__name__}")
    return content, {}


def _damaged(path: Path, error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    return f"{path}: not a readable weights file, truncated or of another format ({reason}); fetch or save it again"
