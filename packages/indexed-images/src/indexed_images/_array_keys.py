"""Which arrays of a file hold images, labels and class names, by split."""

from collections.abc import Mapping
from typing import NamedTuple

from ._layout import split_of_name
from ._npz import Head
from ._reading import Fields
from ._split_columns import asked_for, listed, plain

_IMAGES = {"images", "image", "imgs", "img", "data", "x", "pixels", "samples", "inputs", "imagedata"}
_LABELS = {"labels", "label", "y", "targets", "target", "classes", "class", "gt", "groundtruth"}
_NAMES = {"classnames", "labelnames", "targetnames", "names", "categories", "categorynames", "labelstrings"}
_IDS = {"id", "ids", "index", "indices", "idx"}
_WORDS = ("training", "validation", "testing", "train", "valid", "test", "trn", "val", "dev", "tst")  # longest first


class Part(NamedTuple):
    """The arrays of a split."""

    images: str
    labels: str | None


def parts_of(heads: Mapping[str, Head | None], fields: Fields, where: str) -> dict[str, Part]:
    """Return the arrays of each split; the only key is "all" if no name says a split.

    Raises:
        ValueError: If no array may hold images, or several of the same split.
    """
    found = {split: keys for split, keys in _by_split(heads, _IMAGES).items() if keys}
    image = asked_for(fields.image, heads, where, "--image-field")
    if image is not None:
        return {"all": Part(image, _labels(heads, _split(image)[0], image, fields, where))}
    if not found:
        found = {
            None: [key for key, head in heads.items() if head and len(head.shape) > 2 and head.dtype.kind in "buif"]
        }
    if "train" in found and None in found:
        found["train"] += found.pop(None)
    for keys in found.values():
        if len(keys) > 1:
            raise ValueError(f"{where}: arrays {listed(keys)} may all hold images: name one with --image-field")
        if not keys:
            raise ValueError(
                f"{where} has no array of images, only {listed(heads)}: save it with np.savez(FILE, images=..., "
                "labels=...), or name it with --image-field"
            )
    parts = {split: Part(keys[0], _labels(heads, split, keys[0], fields, where)) for split, keys in found.items()}
    if len(parts) == 1:
        return {"all": next(iter(parts.values()))}
    return {split or "train": part for split, part in parts.items()}


def names_key(heads: Mapping[str, Head | None], taken: set[str | None]) -> str | None:
    """Return the array of class names, or None."""
    for key, head in heads.items():
        if plain(key) in _NAMES and key not in taken:
            return key
        if plain(key) == "classes" and key not in taken and head is not None and head.dtype.kind in "US":
            return key
    return None


def possible_labels(heads: Mapping[str, Head | None], part: Part) -> list[str]:
    """Return the arrays that a user may name as labels: as many as images, of one or two axes."""
    of_images = heads[part.images]
    found = []
    for key, head in heads.items():
        if key in part or plain(key) in _IDS | _NAMES or head is None or of_images is None or not of_images.shape:
            continue
        if len(head.shape) in (1, 2) and head.dtype.kind in "biufUS" and head.shape[0] == of_images.shape[0]:
            found.append(key)
    return found


def _labels(heads: Mapping[str, Head | None], split: str | None, image: str, fields: Fields, where: str) -> str | None:
    if (asked := asked_for(fields.label, heads, where, "--label-field")) is not None:
        of_split, rest = _split(asked)
        if of_split == split or of_split is None:
            return asked
        return next((key for key in heads if _split(key) == (split, rest)), None)
    usual = [key for key in _by_split(heads, _LABELS).get(split, []) if not _is_names(key, heads, image)]
    if len(usual) > 1:
        raise ValueError(f"{where}: arrays {listed(usual)} may all hold labels: name one with --label-field")
    if usual or split is not None:
        return usual[0] if usual else None
    fitting = [key for key in heads if _may_be_labels(key, heads, image)]
    return fitting[0] if len(fitting) == 1 else None


def _is_names(key: str, heads: Mapping[str, Head | None], image: str) -> bool:
    """Tell whether `classes` are names of classes: texts, but not as many as images."""
    head, of_images = heads[key], heads[image]
    if plain(key) != "classes" or head is None or of_images is None or head.dtype.kind not in "US":
        return False
    return head.shape[:1] != of_images.shape[:1]


def _may_be_labels(key: str, heads: Mapping[str, Head | None], image: str) -> bool:
    head, of_images = heads[key], heads[image]
    if head is None or of_images is None or key == image or plain(key) in _IDS | _NAMES:
        return False
    is_column = len(head.shape) == 1 or (len(head.shape) == 2 and head.shape[1] == 1)
    return is_column and head.dtype.kind in "iuUS" and head.shape[:1] == of_images.shape[:1]


def _by_split(heads: Mapping[str, Head | None], names: set[str]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for key in heads:
        split, rest = _split(key)
        if rest in names:
            found.setdefault(split, []).append(key)
    return found


def _split(key: str) -> tuple[str | None, str]:
    """Return the split that a name begins or ends with, and the rest of it: `x_train` is ("train", "x")."""
    name = plain(key)
    for word in _WORDS:
        if name.startswith(word) or name.endswith(word):
            return split_of_name(word), name.removeprefix(word) if name.startswith(word) else name.removesuffix(word)
    return None, name
