"""The source `list:`, a text file that names images."""

import os
import re
from pathlib import Path

from ._decode import EXTENSIONS
from ._label_columns import labels_by_split
from ._label_lists import separated
from ._labels import labels_of_texts
from ._listed import require_images
from ._reading import Notes
from ._source import FileSource, Request, only_train

_LINE = re.compile(rf"(.*(?:{'|'.join(map(re.escape, EXTENSIONS))}))(?:\s+(\S.*))?", re.IGNORECASE)
_LONGEST = 4096  # characters of a path


def open_list(request: Request) -> FileSource:
    """Open `list:FILE` with `path[ label]` per line; a path may contain spaces and ends at its last image extension.

    Paths are relative to the file. They may be absolute or lead out of its folder, because users write lists for their
    own images. Bytes that are not UTF-8 are kept, since file names are bytes.
    """
    file = Path(request.arg).expanduser()
    if not request.arg or not file.is_file():
        raise FileNotFoundError(f"no list file {str(file)!r}: write list:FILE with one `path[ label]` per line")
    only_train(request, f"list {str(file)!r}", "write the validation images into a list of their own")
    pairs: list[tuple[str, str | None]] = []
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{file}, line {number}: expected `path[ label]` with one of {' '.join(EXTENSIONS)}, got "
                f"{line[:80]!r}; a table with columns is opened by csv:"
            )
        if len(match[1]) > _LONGEST or "\0" in match[1]:
            raise ValueError(f"{file}, line {number}: {match[1][:80]!r} is no path of an image")
        pairs.append((match[1], match[2]))
    if not pairs:
        raise ValueError(f"{file} names no image: expected one `path[ label]` per line")
    pairs, remark = _label_first(pairs, file)
    labels, said = separated([label for _, label in pairs], "")
    found = (
        labels_of_texts(labels, str(file))
        if said is None
        else labels_by_split(labels, [""] * len(labels), str(file))[""]
    )
    names = [name for name, _ in pairs]
    with_backslash = next((name for name in names if "\\" in name), "")
    if with_backslash and _there(with_backslash, file) not in (None, with_backslash):
        names = [name.replace("\\", "/") for name in names]  # written on Windows
    paths = [os.path.join(file.parent, name) for name in names]
    require_images(paths, file, f"a line is `path[ label]`, and paths are relative to {str(file.parent)!r}")
    notes = Notes().plus(remark, said, found.remark)
    return FileSource(paths, found.labels, found.class_names, request.reading, notes)


def _label_first(pairs: list[tuple[str, str | None]], file: Path) -> tuple[list[tuple[str, str | None]], str | None]:
    """Return path and label of lines `label path` or, as of MXNet, `index label path`, and a remark.

    Lines are such if the first path is not there, and the last field of it is. Others are returned as they are.
    """
    first = pairs[0][0]
    separator = "\t" if "\t" in first else None
    if _there(first, file) is not None or any(label is not None for _, label in pairs):
        return pairs, None
    parts = [name.rsplit(separator, 1) for name, _ in pairs]
    if len(parts[0]) < 2 or _there(parts[0][1].strip(), file) is None:
        return pairs, None
    if (odd := next((k for k, own in enumerate(parts) if len(own) < 2), None)) is not None:
        raise ValueError(
            f"{file}: {pairs[0][0]!r:.80} is a label and a path, but {pairs[odd][0]!r:.80} is a path alone"
        )
    heads = [head.split(separator) for head, _ in parts]
    names = [name.strip() for _, name in parts]
    indices = {head[0] for head in heads}
    if all(len(head) > 1 for head in heads) and len(indices) == len(heads) and all(map(str.isdecimal, indices)):
        remark = "lines are index, label and path, as MXNet has them"
        return [(name, " ".join(head[1:])) for head, name in zip(heads, names, strict=True)], remark
    return list(zip(names, (head.strip() for head, _ in parts), strict=True)), "lines are label and path"


def _there(name: str, file: Path) -> str | None:
    """Return a path that is there, with slashes for backslashes if only that is; None if neither is."""
    return next(
        (own for own in (name, name.replace("\\", "/")) if os.path.exists(os.path.join(file.parent, own))), None
    )
