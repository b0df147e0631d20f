"""Read CSV files and JSON lines as tables."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from ._decode import EXTENSIONS
from ._split_columns import Table

_DELIMITERS = ",\t;|"
_LOOKED_AT = 20  # rows that decide the delimiter
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_csv(file: Path) -> Table:
    """Read a table of texts. Bytes that are not UTF-8 are kept, since file names are bytes.

    Raises:
        ValueError: If quotes are not closed, rows differ in length or columns share a name.
    """
    data = file.read_bytes()
    try:
        text = data.decode("utf-16") if data.startswith(_UTF_16) else data.decode("utf-8-sig", "surrogateescape")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no table of text: {error}") from None
    first, _, others = text.partition("\n")
    hinted = first.strip()[4:] if first.lower().startswith("sep=") else ""  # Excel's line that names the delimiter
    if len(hinted) == 1:
        text = others
    delimiter = hinted if len(hinted) == 1 else _delimiter(text)
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if rows and len(cells) > len(rows[0][1]) and not any(cells[len(rows[0][1]) :]):
                cells = cells[: len(rows[0][1])]  # delimiters at the end of the line
            rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}: write a quote inside of quotes twice") from None
    if not rows:
        raise ValueError(f"{file} is empty: expected a line of column names, and a row an image")
    width = len(rows[0][1])
    for number, cells in rows:
        if len(cells) != width:
            raise ValueError(
                f"{file}, line {number}: {len(cells)} values, but {width} in the first line: quote values that hold "
                f"{delimiter!r}"
            )
    is_named = not any(cell.lower().endswith(EXTENSIONS) for cell in rows[0][1])
    names = rows[0][1] if is_named else [""] * width
    if len(set(filter(None, names))) < len(list(filter(None, names))):
        twice = next(name for name in names if name and names.count(name) > 1)
        raise ValueError(f"{file}: two columns are named {twice!r}: rename one")
    body = [cells for _, cells in rows[is_named:]]
    if not body:
        raise ValueError(f"{file} has a line of column names and no row")
    names = [name or f"column {k}" for k, name in enumerate(names, 1)]
    return Table(str(file), {name: [cells[k] for cells in body] for k, name in enumerate(names)}, is_named)


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts the first rows into the same number of values, the largest above one."""
    best, most = ",", 1
    for delimiter in _DELIMITERS:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        widths = []
        try:
            for row in rows:
                if any(cell.strip() for cell in row):
                    widths.append(len(row))
                if len(widths) == _LOOKED_AT:
                    break
        except csv.Error:  # a field of more than 128 KiB: this is no delimiter
            continue
        if widths and min(widths) == max(widths) > most:
            best, most = delimiter, widths[0]
    if most == 1:  # rows differ, which is an error to be told with the delimiter of the first one
        first = text.lstrip("\r\n").split("\n", 1)[0]
        best = max(_DELIMITERS, key=first.count)
    return best


def read_jsonl(file: Path) -> Table:
    """Read a table of JSON values. A key that a line lacks has the value None.

    Raises:
        ValueError: If a line is no object.
    """
    rows: list[dict[str, Any]] = []
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{file}, line {number}: expected a JSON object in one line: {reason}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: expected a JSON object in one line, got {line.strip()[:80]!r}")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise ValueError(f"{file} is empty: expected a JSON object a line")
    return Table(str(file), {name: [row.get(name) for row in rows] for name in names})
