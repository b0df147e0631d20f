"""Labels of a table's rows, over all splits, so that each split has the same kind of labels and the same classes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._label_lists import separated
from ._labels import Labelling, encode_names, labels_of_array, labels_of_texts

_MAX_CELLS = 1 << 28  # of the matrix of a multi-label set: 2 GiB


def labels_by_split(
    values: Sequence[Any],
    splits: Sequence[str],
    where: str,
    names: Sequence[str] | None = None,
    column: str | None = None,
) -> dict[str, Labelling]:
    """Return the labels of each split's rows.

    A split without any label stays without, as held-out ones often do.

    Args:
        values: A text, number, list of texts or list of numbers a row; None or '' without a label.
        splits: Split of each row.
        where: What they were read from, for messages.
        names: Names of the classes that numbers are indices of, if the table has them.
        column: Name of the labels' column, which may say that a text holds several labels.

    Raises:
        ValueError: If only some rows of a split have a label, or labels are of several kinds.
    """
    values, said = separated(values, column or "")
    rows: dict[str, list[int]] = {}
    for i, split in enumerate(splits):
        rows.setdefault(split, []).append(i)
    labelled = {split: those for split, those in rows.items() if any(not _is_none(values[i]) for i in those)}
    if not labelled:
        return dict.fromkeys(rows, Labelling(None))
    of_all = _labels([values[i] for those in labelled.values() for i in those], where, names)
    if of_all.class_names is None:
        of_all = named(of_all, names, where)
    remark = "; ".join(filter(None, (said, of_all.remark))) or None
    found = dict.fromkeys(rows, Labelling(None))
    start = 0
    for split, those in labelled.items():
        part = None if of_all.labels is None else of_all.labels[start : start + len(those)]
        found[split] = Labelling(part, of_all.class_names, remark)
        start += len(those)
    return found


def columns_by_split(columns: dict[str, Sequence[Any]], splits: Sequence[str], where: str) -> dict[str, Labelling]:
    """Return the labels of each split's rows from columns of 1, 0 and -1, one a class."""
    try:
        rows = np.array([[float(value) for value in values] for values in columns.values()]).T
    except (TypeError, ValueError):
        raise ValueError(f"{where}: label columns must hold 0, 1 or -1 in every row") from None
    of_all = labels_of_array(rows, len(rows), where)
    of_split = np.array(splits)
    labels = of_all.labels
    assert labels is not None  # rows of several columns are never all without a label
    return {split: Labelling(labels[of_split == split], list(columns), of_all.remark) for split in {*splits}}


def labels_of_arrays(arrays: Mapping[str, tuple[np.ndarray | None, int, str]]) -> dict[str, Labelling]:
    """Return the labels of each split from an array of a split, its number of images and its name for messages.

    Raises:
        ValueError: If an array does not hold labels, or those of splits differ in kind.
    """
    found = dict.fromkeys(arrays, Labelling(None))
    own: dict[str, np.ndarray] = {}
    for split, (array, n, where) in arrays.items():
        if array is None:
            continue
        refuse_lost_sign(array, where)
        alone = labels_of_array(array, n, where)  # checks the shape, and that all images have a label or none
        found[split] = alone
        if alone.labels is not None:
            own[split] = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if len(own) < 2:
        return found
    where = " and ".join(arrays[split][2] for split in own)
    if (
        len({array.shape[1:] for array in own.values()}) > 1
        or len({array.dtype.kind in "US" for array in own.values()}) > 1
    ):
        said = ", ".join(f"{array.dtype} {array.shape}" for array in own.values())
        raise ValueError(f"{where}: labels of the splits differ in kind: {said}")
    joined = np.concatenate([np.char.decode(a, "utf-8", "replace") if a.dtype.kind == "S" else a for a in own.values()])
    of_all = labels_of_array(joined, len(joined), where)
    assert of_all.labels is not None  # as each split has some
    ends = np.cumsum([len(array) for array in own.values()])[:-1]
    parts = np.split(of_all.labels, ends)
    return found | {
        split: Labelling(part, of_all.class_names, of_all.remark) for split, part in zip(own, parts, strict=True)
    }


def refuse_lost_sign(labels: np.ndarray, where: str) -> None:
    """Raise ValueError if the largest label is the largest of its type, far above the others: -1 without its sign."""
    if labels.dtype.kind != "u" or not labels.size or (labels.ndim == 2 and labels.shape[1] > 1):
        return
    most = int(np.iinfo(labels.dtype).max)
    n = int((labels == most).sum())
    others = int(labels[labels != most].max()) if n < labels.size else -1
    if n and 2 * others < most:
        said = f"the others are at most {others}" if others >= 0 else "there are no others"
        raise ValueError(
            f"{where}: {n:,} of {labels.size:,} labels are {most}, the largest {labels.dtype}, and {said}: it may be a "
            "-1 (no label) read without its sign, so store labels with a sign and leave out images without one"
        )


def named(labelling: Labelling, names: Sequence[str] | None, where: str) -> Labelling:
    """Return the labelling with names of its indices, made unique where several classes have the same name.

    Raises:
        ValueError: If there are fewer names than classes.
    """
    if names is None or labelling.labels is None:
        return labelling
    labels = labelling.labels
    n = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    if len(names) < n or (labels.ndim == 2 and len(names) != n):
        raise ValueError(f"{where}: {len(names)} class names for {n} classes: name every class, in the order of labels")
    times = Counter(names)
    unique = [name if times[name] == 1 else f"{name} ({k})" for k, name in enumerate(names)]
    return Labelling(labels, unique, labelling.remark)


def _labels(values: list[Any], where: str, names: Sequence[str] | None) -> Labelling:
    if not any(isinstance(value, list) for value in values):
        return labels_of_texts([_scalar(value, where) for value in values], where)
    rows = [value if isinstance(value, list) else [value] for value in values]
    if without := sum(value is None or value == "" for value in values):
        raise ValueError(f"{where}: {without:,} of {len(values):,} images have no label: label all or none")
    if all(len(row) == 1 for row in rows):
        return labels_of_texts([_scalar(row[0], where) for row in rows], where)
    items = [item for row in rows for item in row]
    if all(isinstance(item, str) for item in items):
        texts = [str(_scalar(item, where)) for item in items]
        encoded = encode_names(texts, texts)
        assert encoded.labels is not None
        each = np.split(encoded.labels, np.cumsum([len(row) for row in rows])[:-1])
        return Labelling(_present(each, len(encoded.class_names or ()), where), encoded.class_names)
    if not all(isinstance(item, int | float) for item in items):
        odd = next(item for item in items if not isinstance(item, int | float))
        raise ValueError(f"{where}: lists of labels must hold numbers or texts, got {odd!r} among others")
    if names is None and len({len(row) for row in rows}) == 1 and all(item in (-1, 0, 1) for item in items):
        return labels_of_array(np.array(rows), len(rows), where)
    if odd_number := [item for item in items if not math.isfinite(item) or item != int(item) or item < 0]:
        raise ValueError(f"{where}: label {odd_number[0]!r} is no class: expected whole numbers from 0, or names")
    width = int(max(items)) + 1 if names is None else max(int(max(items)) + 1, len(names))
    remark = f"lists of labels hold class indices from 0 to {width - 1}" if names is None else None
    return Labelling(_present([list(map(int, row)) for row in rows], width, where), None, remark)


def _present(rows: Sequence[Sequence[int] | np.ndarray], width: int, where: str) -> np.ndarray:
    if len(rows) * width > _MAX_CELLS:
        raise ValueError(f"{where}: {len(rows):,} images of {width:,} classes are too many for several labels an image")
    labels = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        labels[i, np.asarray(row, dtype=np.int64)] = 1
    return labels


def _scalar(value: Any, where: str) -> str | None:
    if isinstance(value, str):
        try:
            value.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # half a character, as JSON may write it
            raise ValueError(f"{where}: label {value!r:.80} is no text") from None
        return value
    if value is None:
        return None
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise ValueError(f"{where}: label {value!r} is no class: expected a text, a whole number or a list of them")


def _is_none(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and value.strip() in ("", "-1"))
        or (isinstance(value, int | float) and value == -1)
    )
