"""One vocabulary over several sets, so that a label means the same class in each of them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._layout import few


class Labelled(NamedTuple):
    """Labels of a set.

    Attributes:
        labels: int64 (N,), or (N, C) of a multi-label set.
        class_names: Names of the indices or columns, or None.
        what: Name of the set, for messages.
    """

    labels: np.ndarray
    class_names: list[str] | None
    what: str


def unite(sets: Sequence[Labelled]) -> tuple[list[np.ndarray], list[str] | None]:
    """Return the labels of each set as indices into one vocabulary, and the vocabulary.

    Classes are matched by name. Numbers without names are names themselves and match names that are numbers. The
    vocabulary begins with the classes of the first set, in their order; the new ones of the others follow, sorted.
    Numbers without names are left as they are in all sets, unless they are so large that they must be codes.

    Raises:
        ValueError: If some sets have several labels an image and others one; if columns differ; or if some sets have
            names and others numbers.
    """
    if len({one.labels.ndim for one in sets}) > 1:
        single = next(one.what for one in sets if one.labels.ndim == 1)
        several = next(one.what for one in sets if one.labels.ndim == 2)
        raise ValueError(f"images of {several} have several labels each, those of {single} have one")
    if sets[0].labels.ndim == 2:
        return _same_columns(sets)
    if all(one.class_names is None for one in sets):
        numbers = np.unique(np.concatenate([np.unique(one.labels) for one in sets]))
        if numbers[-1] < 1000 + 10 * len(numbers):
            return [one.labels for one in sets], None
        return [np.searchsorted(numbers, one.labels) for one in sets], [str(number) for number in numbers]
    _check_kinds(sets)
    names = [_names(one) for one in sets]
    vocabulary = list(dict.fromkeys(names[0].values()))
    new = {name for one in names[1:] for name in one.values()} - set(vocabulary)
    vocabulary += sorted(new)
    index = {name: k for k, name in enumerate(vocabulary)}
    labels = []
    for one, own in zip(sets, names, strict=True):
        values, positions = np.unique(one.labels, return_inverse=True)
        labels.append(np.array([index[own[value]] for value in values.tolist()], dtype=np.int64)[positions])
    return labels, vocabulary


def _names(one: Labelled) -> dict[int, str]:
    """Return label -> name."""
    if one.class_names is not None:
        keys = [_key(name) for name in one.class_names]
        return dict(enumerate(keys if len(set(keys)) == len(keys) else one.class_names))
    return {int(label): str(label) for label in np.unique(one.labels)}


def _key(name: str) -> str:
    """Write a whole number such as 1.0 as 1, as numbers without names are written."""
    return name.partition(".")[0] if re.fullmatch(r"[+-]?[1-9]\d*\.0*|0\.0*", name) else name


def _same_columns(sets: Sequence[Labelled]) -> tuple[list[np.ndarray], list[str] | None]:
    widths = {one.labels.shape[1] for one in sets}
    if len(widths) > 1:
        said = ", ".join(f"{one.what}: {one.labels.shape[1]}" for one in sets)
        raise ValueError(f"multi-label sets must have the same classes, got other numbers of them ({said})")
    names = next((one.class_names for one in sets if one.class_names is not None), None)
    if names is None:
        return [one.labels for one in sets], None
    labels = []
    for one in sets:
        own = one.class_names or names
        if set(own) != set(names) or len(set(names)) < len(names):
            raise ValueError(
                f"classes of {one.what} differ from those of {sets[0].what}: "
                f"{few(sorted(set(own) ^ set(names))) or 'a name occurs twice'}"
            )
        labels.append(one.labels[:, [own.index(name) for name in names]])
    return labels, names


def _check_kinds(sets: Sequence[Labelled]) -> None:
    """Raise ValueError if one set has class names and another has numbers that are none of them."""
    named = [one for one in sets if one.class_names is not None]
    numbered = [one for one in sets if one.class_names is None]
    if not named or not numbered:
        return
    names = {name for one in named for name in _names(one).values()}
    for one in numbered:
        if not names & set(_names(one).values()):
            raise ValueError(
                f"classes of {named[0].what} are names ({few(sorted(names))}), those of {one.what} are numbers "
                f"({few([str(label) for label in np.unique(one.labels)])}): write the same names in both"
            )
