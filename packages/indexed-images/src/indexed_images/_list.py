"""The source `list:`, a text file that names images."""

import os
import re
from pathlib import Path

from ._decode import EXTENSIONS
from ._labels import labels_of_texts
from ._reading import Notes
from ._source import FileSource, Request, only_train

_LINE = re.compile(rf"(.*(?:{'|'.join(map(re.escape, EXTENSIONS))}))(?:\s+(\S.*))?", re.IGNORECASE)


def open_list(request: Request) -> FileSource:
    """Open `list:FILE` with `path[ label]` per line; a path may contain spaces and ends at its last image extension.

    Paths are relative to the file. They may be absolute or lead out of its folder, because users write lists for their
    own images. Bytes that are not UTF-8 are kept, since file names are bytes.
    """
    file = Path(request.arg).expanduser()
    if not request.arg or not file.is_file():
        raise FileNotFoundError(f"no list file {str(file)!r}: write list:FILE with one `path[ label]` per line")
    only_train(request, f"list {str(file)!r}", "write the validation images into a list of their own")
    paths: list[str] = []
    labels: list[str | None] = []
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
        paths.append(os.path.join(file.parent, match[1]))
        labels.append(match[2])
    if not paths:
        raise ValueError(f"{file} names no image: expected one `path[ label]` per line")
    found = labels_of_texts(labels, str(file))
    return FileSource(paths, found.labels, found.class_names, request.reading, Notes().plus(found.remark))
