"""Several labels in one text: `cat|dog`, `cat;dog`, `['cat', 'dog']`, and `cat dog` in a column of tags."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._split_columns import plain

_PLURALS = {"tags", "labels", "attributes", "categories", "classes", "targets", "keywords", "findings", "findinglabels"}
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_ITEM = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^,'"\[\](){}]+?))\s*(?:,|$)""")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_LEAST_SURE, _LEAST_UNSURE = 0.5, 0.8  # share of the parts that must be in several labels


class Separated(NamedTuple):
    """Labels of images.

    Attributes:
        values: As they were, or a list an image.
        remark: A sentence for the header of a run, or None.
    """

    values: list[Any]
    remark: str | None = None


def separated(values: Sequence[Any], column: str) -> Separated:
    """Take texts that hold several labels apart, where that is clear, or else say that each is one class.

    Args:
        values: A text, number or list an image; None or '' without a label.
        column: Name of the column, or ''. One in the plural may hold several labels between spaces or commas.
    """
    texts = list(dict.fromkeys(value.strip() for value in values if isinstance(value, str) and value.strip()))
    if not texts or any(isinstance(value, list) for value in values):
        return Separated(list(values))
    bracketed = [text for text in texts if _BRACKETS.get(text[0]) == text[-1]]
    if bracketed:
        lists = {text: items for text in bracketed if (items := _items(text)) is not None}
        is_sure = all(text[0] == "[" for text in bracketed) and len(bracketed) == len(texts)
        is_sure = is_sure or all("'" in text or '"' in text for text in bracketed)
        if len(lists) == len(bracketed) and is_sure:
            return Separated(_replaced(values, lists), f"labels such as {bracketed[0][:80]!r} are read as lists")
        return Separated(list(values), _as_one(bracketed[0]))
    is_plural = plain(column) in _PLURALS
    for separator in "|", ";", ",", " ":
        parts = {text: [part.strip() for part in text.split(separator) if part.strip()] for text in texts}
        several = [text for text in texts if len(parts[text]) > 1]
        if several and separator in "|;" and (rows := _rows_of_indices(parts, separator)) is not None:
            said = f"labels such as {several[0][:80]!r} are read as several numbers, separated by {separator!r}"
            return Separated(_replaced(values, rows), said)
        if not several or all(_NUMBER.fullmatch(part) for text in several for part in re.split(r"[\s,;]+", text)):
            continue  # rows of numbers
        if _is_clear(parts, separator, is_plural):
            return Separated(
                _replaced(values, parts),
                f"labels such as {several[0][:80]!r} are read as several classes an image, separated by {separator!r}",
            )
        odd = several if separator in "|;" else [text for text in several if {*parts[text]} <= {*texts}]
        if odd:
            return Separated(list(values), _as_one(odd[0]))
    return Separated(list(values))


def _as_one(text: str) -> str:
    return f"labels such as {text[:80]!r} are read as one class"


def _replaced(values: Sequence[Any], lists: dict[str, list[Any]]) -> list[Any]:
    """Return lists for texts that are one label or more, and other values, such as None, as they are."""
    return [
        lists.get(value.strip(), [value.strip()]) if isinstance(value, str) and value.strip() else value
        for value in values
    ]


def _items(text: str) -> list[Any] | None:
    """Return the texts or numbers that the text of a list holds, or None if it is none."""
    inner = text[1:-1].strip().removesuffix(",")
    if "," not in inner and all(_NUMBER.fullmatch(word) for word in inner.split()):
        items: list[tuple[str, bool]] = [(word, False) for word in inner.split()]  # as NumPy writes them
    else:
        items, start = [], 0
        while start < len(inner):
            match = _ITEM.match(inner, start)
            if match is None:
                return None
            quoted = match[1] if match[1] is not None else match[2]
            items.append((match[3], False) if quoted is None else (re.sub(r"\\(.)", r"\1", quoted), True))
            start = match.end()
    if items and all(not is_quoted and _NUMBER.fullmatch(item) for item, is_quoted in items):
        return [int(item) if re.fullmatch(r"[+-]?\d{1,18}", item) else float(item) for item, _ in items]
    return [item for item, _ in items]


def _rows_of_indices(parts: dict[str, list[str]], separator: str) -> dict[str, list[Any]] | None:
    """Return whole numbers if all parts are such; None for rows of as many `;`, which need no help."""
    if not all(re.fullmatch(r"\d{1,18}", part) for own in parts.values() for part in own):
        return None
    if len({len(own) for own in parts.values()}) == 1 and separator == ";":
        return None
    return {text: [int(part) for part in own] for text, own in parts.items()}


def _is_clear(parts: dict[str, list[str]], separator: str, is_plural: bool) -> bool:
    """Tell whether texts are several labels, because the parts of them are in others as well.

    They are none if all are paths down a tree, such as animal|dog and animal|cat.
    """
    times = Counter(part for own in parts.values() for part in {*own})
    joined = {part for own in parts.values() if len(own) > 1 for part in own}
    share = sum(times[part] > 1 for part in joined) / len(joined)
    widths = {len(own) for own in parts.values()}
    if separator in "|;":
        return share >= _LEAST_SURE and not (len(widths) == 1 and _is_tree(list(parts.values())))
    return is_plural and share >= _LEAST_UNSURE and len(widths) > 1


def _is_tree(paths: list[list[str]]) -> bool:
    places: dict[str, tuple[int, tuple[str, ...]]] = {}
    return all(
        places.setdefault(part, (depth, tuple(path[:depth]))) == (depth, tuple(path[:depth]))
        for path in paths
        for depth, part in enumerate(path)
    )
