"""Labels as they come in lists, tables, archives and arrays: texts or numbers, one or several for an image."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# What pandas reads as missing. "none" in small letters may be a class.
_MISSING = frozenset(["nan", "NaN", "NAN", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None"])
_INT64 = np.iinfo(np.int64)


class Labelling(NamedTuple):
    """Labels of N images.

    Attributes:
        labels: int64 (N,) class indices; (N, C) with 1 present, 0 absent, -1 ignored; or None.
        class_names: Names of the indices or columns, or None.
        remark: A sentence for the header of a run, or None.
    """

    labels: np.ndarray | None
    class_names: list[str] | None = None
    remark: str | None = None


def encode_names(names: list[str], vocabulary: Iterable[str]) -> Labelling:
    """Return indices into the sorted vocabulary, and that vocabulary.

    Bytes that are not UTF-8 are shown as \\xe9. Letters with accents are composed, since Macs write file names with
    letter and accent apart.
    """
    shown = {name: _shown(name) for name in {*names, *vocabulary}}
    class_names = sorted(set(shown.values()))
    index = {name: k for k, name in enumerate(class_names)}
    return Labelling(np.array([index[shown[name]] for name in names], dtype=np.int64), class_names)


def labels_of_texts(texts: Sequence[str | None], where: str, vocabulary: Iterable[str | None] = ()) -> Labelling:
    """Return the labels that a text per image spells.

    Whole numbers are class indices, also if written as 2.0. -1 means no label, and so do nan, NA, None and alike, which
    tables write for a missing value. Digits with zeros before them, such as 007, are names. Several numbers, separated
    by spaces or commas, are a row of a multi-label set. Everything else is a class name, which may contain spaces.

    Args:
        texts: One an image; None or '' if it has none.
        where: What the texts were read from, for messages.
        vocabulary: Texts of images of other splits, whose class names count as well.

    Raises:
        ValueError: If only some images have a label, or rows of numbers have several lengths.
    """
    found = [_stated(text) for text in texts]
    n = sum(map(bool, found))
    if n == 0:
        return Labelling(None)
    if n < len(found):
        first = found.index("")
        given = f" ({texts[first]!r} means none)" if (texts[first] or "").strip() else ""
        raise ValueError(
            f"{where}: {n:,} of {len(found):,} images have a label, image {first + 1:,} has none{given}: "
            "label all or none"
        )
    others = {_stated(text) for text in vocabulary} - {""}
    known: dict[str, list[str] | None] = {text: _numbers(text) for text in dict.fromkeys([*found, *sorted(others)])}
    if not all(map(_is_minus_one, found)) and any(map(_is_minus_one, found)) and None in known.values():
        first = next(i for i, text in enumerate(found) if _is_minus_one(text))
        raise ValueError(
            f"{where}: image {first + 1:,} has the label {found[first]}, which means none, and others have names: "
            "label all or none"
        )
    if all(numbers is not None for numbers in known.values()) and not any(map(_is_code, known)):
        width = {len(known[text] or ()) for text in found}
        if width == {1}:
            return labels_of_array(_whole([text for text in found], where), len(found), where)
        if len(width) == 1:
            rows = np.array([[float(number) for number in known[text] or ()] for text in found])
            return labels_of_array(rows, len(found), where)
    several = [text for text, numbers in known.items() if numbers is not None and len(numbers) > 1]
    if several:
        raise ValueError(
            f"{where}: {several[0]!r} is a row of {len(known[several[0]] or ())} numbers, and other images have "
            "another number of them or a name: write one label an image, or a 0 or 1 for every class"
        )
    return encode_names(found, {*found, *others})


def labels_of_array(array: np.ndarray, n_images: int, where: str) -> Labelling:
    """Return the labels in an array of numbers, bools or strings: (N,), (N, 1), or (N, C) of a multi-label set.

    A row of 0 with a single 1, in all rows, is one class an image (one-hot); -1 in (N,) means no label.

    Raises:
        ValueError: If the shape does not fit, numbers are no class indices, or only some images have a label.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or len(array) != n_images or 0 in array.shape:
        raise ValueError(f"{where}: labels must be ({n_images},) or ({n_images}, classes), got {array.shape}")
    if array.dtype.kind in "US":
        if array.ndim == 2:
            raise ValueError(f"{where}: labels must be one text an image, got {array.shape}")
        return labels_of_texts([_text(value) for value in array], where)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: labels must be whole numbers or texts, got {array.dtype}")
    _refuse_odd_numbers(array, where)
    labels = array.astype(np.int64)
    if labels.ndim == 2:
        return _several(labels, where)
    n_without = int((labels == -1).sum())
    if n_without == n_images:
        return Labelling(None, None, "all labels are -1, which means no label")
    if labels.min() < -1:
        raise ValueError(f"{where}: label {labels.min()} is negative: classes count from 0, and -1 means no label")
    if n_without:
        raise ValueError(f"{where}: {n_without:,} of {n_images:,} labels are -1 (no label): label all or none")
    return Labelling(labels)


def _shown(name: str) -> str:
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return unicodedata.normalize("NFC", text)


def _stated(text: str | None) -> str:
    """Return a label, or '' if there is none or if it is what tables write for a missing one."""
    text = "" if text is None else text.strip()
    return "" if text in _MISSING else text


def _is_minus_one(text: str) -> bool:
    return re.fullmatch(r"-1(?:\.0*)?", text) is not None


def _is_code(text: str) -> bool:
    """Tell whether a text such as 007 is a name that consists of digits: a number has no zeros before it."""
    return re.fullmatch(r"[+-]?0\d+", text) is not None


def _several(labels: np.ndarray, where: str) -> Labelling:
    if not np.isin(labels, (-1, 0, 1)).all():
        raise ValueError(
            f"{where}: rows of {labels.shape[1]} labels must hold 1 (present), 0 (absent) and -1 (ignored) for every "
            f"class, got {labels.max() if labels.max() > 1 else labels.min()}"
        )
    if (labels >= 0).all() and (labels.sum(axis=1) == 1).all():
        remark = f"every row of {labels.shape[1]} labels holds a single 1, so images have one class each"
        return Labelling(labels.argmax(axis=1).astype(np.int64), None, remark)
    return Labelling(labels)


def _refuse_odd_numbers(array: np.ndarray, where: str) -> None:
    if array.dtype.kind == "f":
        odd = array[~np.isfinite(array) | (array != np.floor(array))]
        if odd.size:
            raise ValueError(f"{where}: label {odd.flat[0]:g} is no class: expected whole numbers or names")
        if (np.abs(array) >= 2.0**63).any():
            raise ValueError(f"{where}: label {np.abs(array).max():g} does not fit 64 bits")
    if array.dtype.kind == "u" and array.size and int(array.max()) > _INT64.max:
        raise ValueError(
            f"{where}: label {int(array.max())} does not fit 64 bits: it may be a -1 read without its sign"
        )


def _numbers(text: str) -> list[str] | None:
    """Return the numbers that a text consists of, separated by commas or spaces, or None if it is anything else."""
    parts = re.split(r"\s*[,;]\s*|\s+", text)
    return parts if all(_NUMBER.fullmatch(part) for part in parts) else None


def _whole(texts: list[str], where: str) -> np.ndarray:
    """Return whole numbers as int64. Texts of digits are never rounded by way of floats."""
    values = [int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text) for text in texts]
    for text, value in zip(texts, values, strict=True):
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(f"{where}: label {text!r} is no class: expected whole numbers or names")
        if not _INT64.min <= value <= _INT64.max:
            raise ValueError(f"{where}: label {text!r} does not fit 64 bits")
    return np.array([int(value) for value in values], dtype=np.int64)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
