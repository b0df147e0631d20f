"""The sources `csv:` and `jsonl:`, tables that name image files."""

from collections.abc import Callable
from pathlib import Path

from ._columns import Chosen, choose
from ._files import chosen_split
from ._label_columns import columns_by_split, labels_by_split
from ._labels import Labelling
from ._layout import Layout
from ._read_tables import read_csv, read_jsonl
from ._reading import Notes
from ._source import FileSource, Request
from ._split_columns import Table, splits_of_rows
from ._table_files import find_files, repeated


def open_csv(request: Request) -> FileSource:
    """Open `csv:FILE`: rows of an image and its label, separated by commas, tabs, semicolons or bars."""
    return _open(request, "csv", read_csv)


def open_jsonl(request: Request) -> FileSource:
    """Open `jsonl:FILE`: one JSON object a line."""
    return _open(request, "jsonl", read_jsonl)


def _open(request: Request, name: str, read: Callable[[Path], Table]) -> FileSource:
    file = Path(request.arg).expanduser()
    if not request.arg or not file.is_file():
        raise FileNotFoundError(f"no file {str(file)!r}: write {name}:FILE with a table of images and labels")
    table = read(file)
    chosen = choose(table, request.fields)
    images = table.columns[chosen.image]
    column, splits, remarks = _splits(table, chosen)
    layout = Layout({split: [] for split in splits if split}, [], {s: f"{column} {s!r}" for s in splits if column})
    hint = "write the validation images into a file of their own, or add a column `split`"
    split = chosen_split(layout, request, f"{name} {str(file)!r}", hint)
    found = find_files([images[i] for i, own in enumerate(splits) if own == split], file, split)
    labelling = _labels(table, chosen, splits)[split]
    notes = Notes((), layout.places.get(split, "")).plus(chosen.remark, *remarks, labelling.remark, found.remark)
    notes = notes.plus(repeated(images, [table.columns[name] for name in chosen.labels], splits))
    return FileSource(found.paths, labelling.labels, labelling.class_names, request.reading, notes)


def _splits(table: Table, chosen: Chosen) -> tuple[str, list[str], list[str | None]]:
    """Return the column of splits, the split of each row, and remarks. Rows that are all of one split are "all"."""
    images = table.columns[chosen.image]
    column, splits, remark = splits_of_rows(table, (chosen.image, *chosen.labels))
    if not column:
        return "", ["all"] * len(images), [remark]
    if len(set(splits)) == 1:
        return "", ["all"] * len(images), [f"column {column!r} says {splits[0] or 'unlabelled'!r} in all rows"]
    of_none = splits.count("")
    said = f"passed over {of_none:,} unlabelled rows (column {column!r})" if of_none else None
    return column, splits, [remark, said]


def _labels(table: Table, chosen: Chosen, splits: list[str]) -> dict[str, Labelling]:
    if len(chosen.labels) > 1:
        return columns_by_split({name: table.columns[name] for name in chosen.labels}, splits, table.file)
    if not chosen.labels:
        return labels_by_split([None] * len(splits), splits, table.file)
    return labels_by_split(table.columns[chosen.labels[0]], splits, table.file, column=chosen.labels[0])
