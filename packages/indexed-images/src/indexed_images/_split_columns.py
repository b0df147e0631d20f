"""Tables, and the column that says the split of a row."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

from ._layout import few, split_of_name

_SPLITS = {"split", "splits", "set", "subset", "partition", "fold", "phase", "usage", "mode", "datasplit", "dataset"}
_WORDS = {"split", "splits", "subset", "partition", "fold", "folds", "kfold"}  # of names such as `cv_fold`
_FLAG_OF = {  # column of true and false -> the split of true
    **dict.fromkeys(("istrain", "istraining", "istrainingimage"), "train"),
    **dict.fromkeys(("isval", "isvalid", "isvalidation"), "val"),
    **dict.fromkeys(("istest", "istesting"), "test"),
}
_BARE_FLAGS = {  # the same if they hold nothing but true and false
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FLAGS = _FLAG_OF | _BARE_FLAGS
_TRUTH = dict.fromkeys(("1", "1.0", "true", "t", "yes", "y"), True)
_TRUTH |= dict.fromkeys(("0", "0.0", "false", "f", "no", "n", ""), False)
_NUMBERED = {"split", "splits", "datasplit", "partition"}  # as of CelebA and Waterbirds
_SPLIT_OF_NUMBER = {"0": "train", "1": "val", "2": "test"}


class Table(NamedTuple):
    """A table of images.

    Attributes:
        file: Its file, for messages.
        columns: Values of each column, one a row; None or '' where there is none.
        is_named: Whether the names of the columns come from the file.
    """

    file: str
    columns: dict[str, list[Any]]
    is_named: bool = True


class RowSplits(NamedTuple):
    """The splits of a table's rows.

    Attributes:
        column: The column, or columns, that say them; empty if none does.
        splits: Split of each row, '' for rows of no split; empty if no column says them.
        remark: A sentence for the header of a run, or None.
    """

    column: str
    splits: list[str]
    remark: str | None = None


def asked_for(given: str | None, names: Collection[str], where: str, option: str) -> str | None:
    """Return the column that a user names, in any case; None if no one is named."""
    if given is None or given in names:
        return given
    found = [name for name in names if name.lower() == given.lower()]
    if len(found) == 1:
        return found[0]
    raise ValueError(f"{where} has no column {given!r} ({option}), only {listed(names)}")


def is_split_column(name: str) -> bool:
    """Tell whether a name says the split of a row, though the values may say something else."""
    return plain(name) in _SPLITS or plain(name) in _FLAGS or bool(_words(name) & _WORDS)


def says_split(table: Table, name: str) -> bool:
    """Tell whether a column is one of splits: `train` is none if it holds something else than true and false."""
    return is_split_column(name) and (plain(name) not in _BARE_FLAGS or _is_flag(table.columns[name]))


def may_be_a_class(table: Table, name: str) -> bool:
    """Tell whether a column of splits may as well be a 0/1 column of trains, as there are no others such as `test`."""
    others = [own for own in table.columns if own != name and says_split(table, own)]
    return plain(name) == "train" and says_split(table, name) and not others


def splits_of_rows(table: Table, passed_over: Collection[str]) -> RowSplits:
    """Return the splits of rows, if a column says them.

    Args:
        table: The table.
        passed_over: Columns that hold something else.

    Raises:
        ValueError: If only some values are splits, or two columns say different splits.
    """
    names = [name for name in table.columns if name not in passed_over and says_split(table, name)]
    flags = [name for name in names if plain(name) in _FLAGS and _is_flag(table.columns[name])]
    found = [RowSplits(", ".join(flags), _of_flags(table, flags))] if flags else []
    for name in names:
        if name not in flags and (own := _named_splits(name, table.columns[name], table.file)) is not None:
            found.append(own)
    if len(found) > 1 and any(own.splits != found[0].splits for own in found):
        saying = {*flags, *(own.column for own in found)}
        said = listed([name for name in names if name in saying])
        raise ValueError(f"{table.file}: columns {said} say different splits: drop one")
    if found:
        return found[0]
    for name in names:
        texts = sorted({text_of(value) for value in table.columns[name]})
        if len(texts) > 1 and plain(name) not in ("phase", "usage", "mode", "dataset"):
            held = few(list(map(repr, texts)))
            return RowSplits(
                "", [], f"column {name!r} ({held}) was not understood as train, val and test: all rows are read"
            )
    return RowSplits("", [])


def _words(name: str) -> set[str]:
    return {*re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())}


def _is_flag(values: list[Any]) -> bool:
    texts = {text_of(value).lower() for value in values}
    return texts <= _TRUTH.keys() and texts != {""}


def _of_flags(table: Table, names: list[str]) -> list[str]:
    """Return the split of each row from columns of true and false, blank for false."""
    of_column = {name: _FLAGS[plain(name)] for name in names}
    there = {*of_column.values()}
    if "train" not in there:
        other = "train"
    else:
        left = [split for split in ("test", "val") if split not in there]
        other = left[0] if left else ""
    found = []
    for row, values in enumerate(zip(*(table.columns[name] for name in names), strict=True), 1):
        own = {split for split, value in zip(of_column.values(), values, strict=True) if _TRUTH[text_of(value).lower()]}
        if len(own) > 1:
            raise ValueError(f"{table.file}: row {row:,} is of several splits by columns {listed(names)}: choose one")
        found.append(own.pop() if own else other)
    return found


def _named_splits(name: str, values: list[Any], where: str) -> RowSplits | None:
    split_of = {text: split_of_name(text) for text in map(text_of, values)}
    remark = None
    if plain(name) in _NUMBERED and {text.removesuffix(".0") for text in split_of} == _SPLIT_OF_NUMBER.keys():
        split_of = {text: _SPLIT_OF_NUMBER[text.removesuffix(".0")] for text in split_of}
        remark = f"column {name!r}: 0 is taken for train, 1 for val, 2 for test"
    odd = sorted(text for text, split in split_of.items() if split is None)
    if len(odd) == len(split_of):
        return None
    if odd:
        raise ValueError(f"{where}: column {name!r} says the split, but {few(list(map(repr, odd)))} is none")
    return RowSplits(name, [str(split_of[text_of(value)]) for value in values], remark)


def text_of(value: Any) -> str:
    """Return a value as text without space around it; '' for None."""
    return "" if value is None else str(value).strip()


def plain(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def listed(names: Collection[str]) -> str:
    """Return names for a message."""
    return few([repr(name) for name in names], 8)
