"""Tables, and the column that says the split of a row."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

from ._layout import few, split_of_name

_SPLITS = {"split", "splits", "set", "subset", "partition", "fold", "phase", "usage", "mode", "datasplit", "dataset"}
_FLAGS = {  # column of true and false -> the split of true, and of false
    **dict.fromkeys(("istrain", "istraining", "istrainingimage"), ("train", "test")),
    **dict.fromkeys(("isval", "isvalid", "isvalidation"), ("val", "train")),
    **dict.fromkeys(("istest", "istesting"), ("test", "train")),
}
_TRUTH = {"1": True, "true": True, "yes": True, "1.0": True, "0": False, "false": False, "no": False, "0.0": False}


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


def asked_for(given: str | None, names: Collection[str], where: str, option: str) -> str | None:
    """Return the column that a user names, in any case; None if no one is named."""
    if given is None or given in names:
        return given
    found = [name for name in names if name.lower() == given.lower()]
    if len(found) == 1:
        return found[0]
    raise ValueError(f"{where} has no column {given!r} ({option}), only {listed(names)}")


def is_split_column(name: str) -> bool:
    return plain(name) in _SPLITS or plain(name) in _FLAGS


def splits_of_rows(table: Table, passed_over: Collection[str]) -> tuple[str, list[str]] | None:
    """Return the column that says the split of each row, and the splits; '' for rows of no split.

    Args:
        table: The table.
        passed_over: Columns that hold something else.

    Raises:
        ValueError: If only some values are splits, or two columns say the split.
    """
    found = []
    for name, values in table.columns.items():
        if not is_split_column(name) or name in passed_over:
            continue
        splits = _flags(name, values) or _named_splits(name, values, table.file)
        if splits is not None:
            found.append((name, splits))
    if len(found) > 1 and any(splits != found[0][1] for _, splits in found):
        raise ValueError(f"{table.file}: columns {listed([name for name, _ in found])} say different splits: drop one")
    return found[0] if found else None


def _flags(name: str, values: list[Any]) -> list[str] | None:
    if plain(name) not in _FLAGS:
        return None
    of_true, of_false = _FLAGS[plain(name)]
    truths = [_TRUTH.get(text_of(value).lower()) for value in values]
    return None if None in truths else [of_true if truth else of_false for truth in truths]


def _named_splits(name: str, values: list[Any], where: str) -> list[str] | None:
    split_of = {text: split_of_name(text) for text in map(text_of, values)}
    odd = sorted(text for text, split in split_of.items() if split is None)
    if len(odd) == len(split_of):
        return None
    if odd:
        raise ValueError(f"{where}: column {name!r} says the split, but {few(list(map(repr, odd)))} is none")
    return [str(split_of[text_of(value)]) for value in values]


def text_of(value: Any) -> str:
    """Return a value as text without space around it; '' for None."""
    return "" if value is None else str(value).strip()


def plain(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def listed(names: Collection[str]) -> str:
    """Return names for a message."""
    return few([repr(name) for name in names], 8)
