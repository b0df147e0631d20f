"""Weights in several files with an index, as Hugging Face writes large models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

INDEX = ".index.json"
_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MAX_INDEX = 100 * 2**20


def index_of(path: Path) -> Path | None:
    """Return the index that a path is or, for a folder, that it holds; None if there is none or more than one."""
    if not path.is_dir():
        return path if path.name.endswith(INDEX) else None
    for name in _NAMES:
        if (path / name).is_file():
            return path / name
    found = list(path.glob(f"*{INDEX}"))
    return found[0] if len(found) == 1 else None


def read_shards(index: Path, read: Callable[[Path], dict[Any, Any]]) -> tuple[dict[str, Any], int]:
    """Read the tensors that an index lists, and the number of bytes of its files.

    Raises ValueError if the index is damaged or refers to files outside its folder, or if a file or tensor is missing.
    """
    size = index.stat().st_size
    if size > _MAX_INDEX:
        raise ValueError("the index is larger than 100 MiB: not an index of weights")
    places = _weight_map(index)
    content: dict[str, Any] = {}
    for name in sorted(set(places.values())):
        shard = index.with_name(name)
        if not shard.is_file():
            raise ValueError(f"the file {name} of the index is missing: fetch it into the same folder")
        tensors = read(shard)
        size += shard.stat().st_size
        wanted = [key for key, place in places.items() if place == name]
        if missing := [key for key in wanted if key not in tensors]:
            raise ValueError(f"{len(missing)} tensors ({', '.join(missing[:3])}) are not in {name}: fetch it again")
        content |= {key: tensors[key] for key in wanted}
    return content, size


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        names = set(places.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("not an index of weights: no readable weight_map; fetch it again") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name == ".." or "\0" in name or "\\" in name:
            raise ValueError(f"the index refers to {name!r}, which is no file beside it: not read")
    return dict(places)
