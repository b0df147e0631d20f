"""Which files a `parquet:` spec names, and which split each of them holds."""

import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

from ._layout import few, split_of_name

_SHARD = re.compile(r"(.*?)[-_.]*(\d+)-of-(\d+)")


class Tables(NamedTuple):
    """Files of a spec, sorted, and the folder that it names them below."""

    files: list[Path]
    root: Path


def find_tables(arg: str) -> Tables:
    """Return a file, those that match a pattern, or all .parquet files below a folder."""
    path = Path(arg).expanduser()
    if arg and path.is_dir():
        below = (file.relative_to(path) for file in path.rglob("*.parquet"))
        files = sorted(path / file for file in below if not any(part.startswith(".") for part in file.parts))
    else:
        files = [path] if path.is_file() else [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in files if file.is_file()]
    if not arg or not files:
        raise FileNotFoundError(f"no parquet file {arg!r}: write parquet:FILE, parquet:FOLDER or a pattern with *")
    root = path
    while not root.is_dir():
        root = root.parent
    return Tables(files, root)


def by_split(tables: Tables) -> tuple[list[str], str | None]:
    """Return the split that the name of each file or its folder says, and a remark; "all" if they do not tell apart.

    Raises:
        ValueError: If only some names say a split, or the files of a split lie in several folders.
    """
    files, root = tables
    splits = [_split(file.stem) or (file.parent != root and split_of_name(file.parent.name)) or None for file in files]
    if len(files) == 1 or {*splits} == {None}:
        named, remark = ["all"] * len(files), None
    elif None in splits:
        odd = [file.name for file, split in zip(files, splits, strict=True) if split is None]
        raise ValueError(f"{few(odd)}: the names of other files say their split, but these do not: name those to open")
    else:
        named, remark = [str(split) for split in splits], None
        if len({*named}) == 1:
            named, remark = ["all"] * len(files), f"all files are of the split {named[0]!r}"
    for split in {*named}:
        folders = sorted({str(file.parent) for file, own in zip(files, named, strict=True) if own == split})
        if len(folders) > 1:
            raise ValueError(f"files of {split!r} lie in {few(folders)}: open one folder, or join them as A+B")
    return named, remark


def missing_shards(files: list[Path]) -> str | None:
    """Return a remark if names such as train-00000-of-00003 say that more files belong to them."""
    there: dict[tuple[str, str], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.stem):
            there.setdefault((os.path.join(file.parent, match[1]), match[3]), set()).add(int(match[2]))
    said = [
        f"{len(those):,} of {int(total):,} files of {os.path.basename(name)}"
        for (name, total), those in there.items()
        if len(those) < int(total)
    ]
    return f"only {few(said)} are there" if said else None


def _split(name: str) -> str | None:
    """Return the only split that the words of a name say, or None."""
    found = {split_of_name(word) for word in re.findall(r"[a-z]+", name.lower())} - {None, ""}
    return found.pop() if len(found) == 1 else None
