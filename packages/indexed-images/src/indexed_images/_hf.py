"""The source `hf:`, data sets of the Hugging Face Hub, or of a folder that its library knows."""

import os
from collections.abc import Mapping
from typing import Any

from ._arrow_columns import ArrowColumns, check_sign, is_plain, same_columns
from ._decode import CorruptImage, check_size
from ._files import chosen_split
from ._label_columns import labels_by_split
from ._labels import Labelling
from ._layout import Layout, few, split_of_name
from ._listed import require_images
from ._reading import Notes, Reading
from ._source import EncodedSource, Request, read_file
from ._split_columns import Table, is_split_column, splits_of_rows

_FIRST_WITHOUT_SCRIPTS = 4
_SAVED = ("dataset_dict.json", "state.json")  # files of `save_to_disk`


class HfSource(EncodedSource):
    """Images in a table of the library, which is mapped from the disk and pickled by the paths of its files."""

    def __init__(
        self, rows: Any, column: str, where: tuple[str, str], labelling: Labelling, reading: Reading, notes: Notes
    ) -> None:
        super().__init__(labelling.labels, labelling.class_names, reading, notes)
        self._rows, self._column = rows, column
        self._name, self._folder = where

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, i: int) -> bytes:
        value = self._rows[i : i + 1].column(self._column)[0].as_py()
        if not isinstance(value, dict):
            value = {"path": value} if isinstance(value, str) else {"bytes": value}
        if value.get("bytes") is not None:
            check_size(len(value["bytes"]), self.reading)
            return bytes(value["bytes"])
        if value.get("path") is None:
            raise CorruptImage(f"column {self._column!r} has neither bytes nor a path")
        return read_file(os.path.join(self._folder, value["path"]), self.reading)

    def name(self, i: int) -> str:
        return f"{self._name}[{i}]"


def open_hf(request: Request) -> HfSource:
    """Open `hf:NAME[,CONFIG]`: a data set of the Hub, a folder of `save_to_disk`, or a folder of data files."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("hf needs Hugging Face's library: pip install 'indexed-images[hf]'") from error
    if int(datasets.__version__.split(".")[0]) < _FIRST_WITHOUT_SCRIPTS:
        raise ImportError(f"hf needs datasets 4 or later, got {datasets.__version__}: older ones run code of data sets")
    folder = os.path.expanduser(request.arg)
    is_folder = os.path.isdir(folder)  # a comma may be part of the name
    name, _, config = (folder, "", "") if is_folder else request.arg.partition(",")
    if not name:
        raise FileNotFoundError("no data set '': write hf:NAME[,CONFIG] or hf:FOLDER")
    tables, remark = _by_split(_load(datasets, name, config), name)
    columns = same_columns(
        [(t.features.arrow_schema, f"{name}, split {s!r}") for s, t in tables.items()], request.fields
    )
    column, said = "split", None
    if tables.keys() == {"all"}:
        column, tables, said = _by_column(tables["all"], columns, name)
    layout = Layout({split: [] for split in tables if split}, [], {s: f"{column} {s!r}" for s in tables if s != "all"})
    layout.places.pop("", None)
    split = chosen_split(layout, request, f"hf {request.arg!r}", "open its validation images by a spec of their own")
    rows = tables[split].select_columns([columns.image]).with_format("arrow")
    if not len(rows):
        raise ValueError(f"{name}: no rows in split {split!r}")
    _check_all_there(rows, columns, name, folder)
    labelling = _labels(tables, columns, name)[split]
    notes = Notes((), layout.places.get(split, "")).plus(columns.remark, remark, said, labelling.remark)
    return HfSource(rows, columns.image, (name, folder), labelling, request.reading, notes)


def _load(datasets: Any, name: str, config: str) -> Any:
    try:
        if any(os.path.isfile(os.path.join(name, file)) for file in _SAVED):
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, config or None)
    except Exception as error:  # of the network, of damaged files, of configurations to choose from, ...
        kind = next((kind for kind in (FileNotFoundError, OSError) if isinstance(error, kind)), ValueError)
        raise kind(f"cannot open the data set {name!r}: {' '.join(str(error).split())[:400]}") from error


def _by_split(found: Any, name: str) -> tuple[dict[str, Any], str | None]:
    """Return the table of each split, or of "all" if there is one table, and a remark."""
    if not isinstance(found, Mapping):
        return {"all": found}, None
    if len(found) == 1:
        return {"all": next(iter(found.values()))}, None
    splits: dict[str, Any] = {}
    for key in sorted(found, key=lambda key: (len(key), key)):  # validation before validation_2, if both are splits
        if split := split_of_name(key):
            splits.setdefault(split, found[key])
    others = [key for key in found if not any(found[key] is table for table in splits.values())]
    if not splits:
        raise ValueError(f"{name} holds {few(list(found))}, none of which is train, validation or test")
    return splits, f"passed over {few(others)}" if others else None


def _by_column(table: Any, columns: ArrowColumns, name: str) -> tuple[str, dict[str, Any], str | None]:
    """Return the column that says the split of rows, the rows of each split, and a remark; "all" without such one."""
    schema = table.features.arrow_schema
    keys = [key for key in table.column_names if is_split_column(key) and is_plain(schema, key)]
    only = table.select_columns(keys).with_format("arrow") if keys and len(table) else None
    held = {key: only[:].column(key).to_pylist() for key in keys} if only is not None else {}
    column, splits, remark = splits_of_rows(Table(name, held), (columns.image, columns.label or ""))
    if len({*splits}) < 2:
        return "", {"all": table}, remark
    rows: dict[str, list[int]] = {}
    for i, split in enumerate(splits):
        rows.setdefault(split, []).append(i)
    return column, {split: table.select(own) for split, own in rows.items()}, remark


def _labels(tables: Mapping[str, Any], columns: ArrowColumns, where: str) -> dict[str, Labelling]:
    values: list[Any] = []
    splits: list[str] = []
    for split, table in tables.items():
        splits += [split] * len(table)
        if columns.label is None or columns.label not in table.column_names:
            values += [None] * len(table)
        else:
            only = table.select_columns([columns.label]).with_format("arrow")
            own = only[:].column(0).to_pylist() if len(only) else []
            check_sign(own, only.features.arrow_schema.field(0).type, f"{where}, split {split!r}")
            values += own
    return labels_by_split(values, splits, where, columns.names, columns.label)


def _check_all_there(rows: Any, columns: ArrowColumns, name: str, folder: str) -> None:
    """Raise if a row has neither bytes nor a path, or if the files of paths are not there."""
    import pyarrow.compute

    column = rows[:].column(0)
    if columns.kind == "struct":
        absent = pyarrow.compute.is_null(pyarrow.compute.struct_field(column, "bytes"))
        has_paths = column.type.get_field_index("path") >= 0
        paths = pyarrow.compute.struct_field(column, "path") if has_paths else pyarrow.nulls(len(column))
        paths = paths.filter(absent).to_pylist()
    elif columns.kind == "text":
        paths = column.to_pylist()
    else:
        paths = [None] * column.null_count
    if None in paths:
        raise ValueError(
            f"{name}: {paths.count(None):,} rows of column {columns.image!r} have neither bytes nor a path"
        )
    if paths:
        require_images([os.path.join(folder, path) for path in paths], name, "the data set names them by their paths")
