"""The source `parquet:`, tables with images inside, as Hugging Face datasets write them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._arrow_columns import ArrowColumns, check_sign, is_plain, same_columns
from ._files import chosen_split
from ._label_columns import labels_by_split
from ._labels import Labelling
from ._layout import Layout
from ._parquet_files import by_split, find_tables, missing_shards
from ._reading import Notes, Reading
from ._source import EncodedSource, FileSource, Request, read_file
from ._split_columns import Table, is_split_column, splits_of_rows
from ._stored_bytes import StoredBytes, store
from ._table_files import find_files

_BATCH = 64  # rows in memory at a time


class _Rows(NamedTuple):
    """The rows of all files, one file after the other.

    Attributes:
        split: Split of each row.
        labels: Labelling of each split.
        at: File and row in it, (N, 2).
    """

    split: list[str]
    labels: dict[str, Labelling]
    at: np.ndarray


class ParquetSource(EncodedSource):
    """Images in copies of the tables' bytes, or in files that the tables name."""

    def __init__(
        self,
        files: dict[int, str],
        stored: dict[int, StoredBytes],
        rows: np.ndarray,
        paths: dict[tuple[int, int], str],
        labelling: Labelling,
        reading: Reading,
        notes: Notes,
    ) -> None:
        super().__init__(labelling.labels, labelling.class_names, reading, notes)
        self._files, self._stored, self._rows, self._paths = files, stored, rows, paths

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, i: int) -> bytes:
        file, row = self._rows[i].tolist()
        if self._stored[file].is_absent[row]:
            return read_file(self._paths[file, row], self.reading)
        return self._stored[file].read(row, self.reading)

    def name(self, i: int) -> str:
        file, row = self._rows[i].tolist()
        return f"{self._files[file]}[{row}]"


def open_parquet(request: Request) -> EncodedSource:
    """Open `parquet:PATTERN`, `parquet:FILE` or `parquet:FOLDER`. Names of the files, or a column, say the splits."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError("parquet needs PyArrow: pip install 'indexed-images[parquet]'") from error
    found_files = find_tables(request.arg)
    files = found_files.files
    split_of_file, remark = by_split(found_files)
    tables = [_Table(file) for file in files]
    columns = same_columns([(table.schema, str(table.file)) for table in tables], request.fields)
    rows, of_column, said = _rows(tables, split_of_file, columns)
    layout = Layout({split: [] for split in rows.labels if split}, [], {})
    layout.places.update({split: f"{of_column or 'files of'} {split!r}" for split in layout.splits if split != "all"})
    hint = "name the folder that holds the files of all splits"
    split = chosen_split(layout, request, f"parquet {request.arg!r}", hint)
    chosen = rows.at[np.array(rows.split) == split]
    labelling = rows.labels[split]
    notes = Notes((), layout.places.get(split, "")).plus(columns.remark, remark, said, missing_shards(files))
    notes = notes.plus(labelling.remark)
    used = [int(k) for k in np.unique(chosen[:, 0])]
    if columns.kind == "text":
        images = {k: tables[k].column(columns.image) for k in used}
        found = find_files([images[k][row] for k, row in chosen.tolist()], files[used[0]], split)
        notes = notes.plus(found.remark)
        return FileSource(found.paths, labelling.labels, labelling.class_names, request.reading, notes)
    stored = {k: tables[k].stored(columns) for k in used}
    absent = [(k, row) for k, row in chosen.tolist() if stored[k].is_absent[row]]
    paths = _paths(absent, tables, columns, split)
    names = {k: str(files[k]) for k in used}
    return ParquetSource(names, stored, chosen, paths, labelling, request.reading, notes)


def _rows(
    tables: list["_Table"], split_of_file: list[str], columns: ArrowColumns
) -> tuple[_Rows, str | None, str | None]:
    """Return the rows, the column that says their split if the names of the files say none, and a remark."""
    splits = [split for table, split in zip(tables, split_of_file, strict=True) for _ in range(len(table))]
    of_column = remark = None
    if {*splits} == {"all"}:
        held = {
            name: [value for table in tables for value in table.column(name)]
            for name in tables[0].schema.names
            if is_split_column(name) and all(is_plain(table.schema, name) for table in tables)
        }
        found = splits_of_rows(Table(str(tables[0].file), held), (columns.image, columns.label or ""))
        remark = found.remark
        if len(set(found.splits)) > 1:
            of_column, splits = found.column, found.splits
    where = str(tables[0].file) + (f" and {len(tables) - 1:,} more" if len(tables) > 1 else "")
    if not splits:
        raise ValueError(f"{where}: no rows")
    labels = [value for table in tables for value in table.labels(columns)]
    if columns.label is not None:
        schema = next(table.schema for table in tables if columns.label in table.schema.names)
        check_sign(labels, schema.field(columns.label).type, f"{where}, column {columns.label!r}")
    at = np.array([(k, row) for k, table in enumerate(tables) for row in range(len(table))], dtype=np.int64)
    return _Rows(splits, labels_by_split(labels, splits, where, columns.names, columns.label), at), of_column, remark


def _paths(
    absent: list[tuple[int, int]], tables: list["_Table"], columns: ArrowColumns, split: str
) -> dict[tuple[int, int], str]:
    """Return the paths of images whose bytes are not in the table."""
    if not absent:
        return {}
    values = {k: tables[k].column(columns.image) for k in {k for k, _ in absent}}
    named = [(values[k][row] or {}).get("path") if columns.kind == "struct" else None for k, row in absent]
    if None in named:
        k, row = absent[named.index(None)]
        raise ValueError(f"{tables[k].file}: row {row + 1:,} of column {columns.image!r} has neither bytes nor a path")
    found = find_files(named, tables[absent[0][0]].file, split)
    return dict(zip(absent, found.paths, strict=True))


class _Table:
    """A file, opened for each use."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._opened() as table:
            self.schema, self._metadata = table.schema_arrow, table.metadata

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    def column(self, name: str) -> list[Any]:
        with self._opened() as table, _one_line(self.file):
            values: list[Any] = table.read(columns=[name]).column(0).to_pylist()
            return values

    def labels(self, columns: ArrowColumns) -> list[Any]:
        if columns.label is None or columns.label not in self.schema.names:
            return [None] * len(self)
        return self.column(columns.label)

    def stored(self, columns: ArrowColumns) -> StoredBytes:
        """Return the copy of the images' bytes."""
        groups = [self._metadata.row_group(k) for k in range(self._metadata.num_row_groups)]
        parts = [group.column(k) for group in groups for k in range(group.num_columns)]
        image = columns.image
        n_bytes = sum(
            part.total_uncompressed_size for part in parts if f"{part.path_in_schema}.".startswith(f"{image}.")
        )
        return store(self.file, image, n_bytes, self._bytes(columns))

    def _bytes(self, columns: ArrowColumns) -> Iterator[bytes | None]:
        with self._opened() as table, _one_line(self.file):
            for batch in table.iter_batches(_BATCH, columns=[columns.image]):
                for value in batch.column(0).to_pylist():
                    yield value.get("bytes") if isinstance(value, dict) else value

    def _opened(self) -> Any:
        import pyarrow.parquet

        with _one_line(self.file):
            return pyarrow.parquet.ParquetFile(self.file)


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """Turn every error of the library into one line."""
    try:
        yield
    except (GeneratorExit, MemoryError):
        raise
    except Exception as error:  # PyArrow raises ArrowInvalid, OSError, TypeError, ... on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file} is no parquet file that can be read: {reason}") from error
