"""Labels beside the images of an archive, as webdataset writes them: members .cls, .json or .txt of the same stem."""

import json
import os
import sys
from collections.abc import Iterable
from typing import NamedTuple

from ._labels import Labelling, labels_of_texts

LABEL_SUFFIXES = (".cls", ".json", ".txt")  # the first kind that every image has is used
LABEL_BYTES = 1 << 20  # largest size of a member that is read
_JSON_FIELDS = ("label", "cls")

Stem = tuple[int, tuple[str, ...]]  # shard, and parts of the path without a suffix


class LabelFile(NamedTuple):
    """A member that may hold the label of images.

    Attributes:
        name: Path in the archive, for messages.
        text: Its content, or of a .json the value of the field; None if it has no such field.
        fields: Names of the fields of a .json.
    """

    name: str
    text: str | None
    fields: str = ""


LabelFiles = dict[str, dict[Stem, LabelFile]]  # suffix -> stem -> file


class LabelError(ValueError):
    """A member that should hold a label does not, or two claim to be the label of the same image."""


def add_label_file(files: LabelFiles, shard: int, parts: tuple[str, ...], content: bytes, field: str | None) -> None:
    """Add a member. Of a .json only the field is kept, as descriptions of a million images take gigabytes.

    Raises:
        LabelError: If another member has the same name and another content; if a .json is not JSON, or its label is no
            text, number or list of numbers.
    """
    stem, suffix = os.path.splitext(parts[-1])
    name, text = "/".join(parts), content.decode("utf-8", "replace").strip()
    file = LabelFile(name, text) if suffix.lower() != ".json" else _parsed(name, text, field)
    there = files.setdefault(suffix.lower(), {})
    key = (shard, (*parts[:-1], stem))
    if key in there and there[key].text != file.text:
        raise LabelError(f"two members are called {name!r} and differ, and both may be the label")
    there[key] = file


def texts_of(suffix: str, files: LabelFiles, stems: Iterable[Stem]) -> list[LabelFile | None]:
    """Return the label file of each image: the one whose stem is the longest that the image's name begins with.

    `a.b.jpg` takes `a.b.cls`, or else `a.cls`: webdataset cuts names at the first dot, other writers do not.
    """
    there = files.get(suffix, {})
    found = []
    for shard, (*folder, name) in stems:
        parts = name.split(".")
        tried = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
        found.append(next((there[key] for stem in tried if (key := (shard, (*folder, stem))) in there), None))
    return found


def labels_of_members(
    files: LabelFiles, here: list[Stem], everywhere: list[Stem], field: str | None, where: str
) -> Labelling:
    """Return the labels of the images `here`, if label files lie beside them. Classes are those of all splits.

    Raises:
        ValueError: If some images have a label file and others do not, or one does not hold what is expected.
    """
    remarks = []
    if n := len(files.get(".cls", ())) - len({file for file in texts_of(".cls", files, everywhere) if file}):
        remarks.append(f"{n:,} .cls members fit no image by their names")
    for suffix in LABEL_SUFFIXES:
        beside = texts_of(suffix, files, here)
        chosen = [file for file in beside if file is not None]
        if not chosen:
            continue
        if len(chosen) < len(beside):
            few = f"{len(chosen):,} of {len(beside):,} images have a {suffix} member"
            if suffix == ".cls":
                raise ValueError(f"{where}: {few}, {_shown(here[beside.index(None)])} has none: label all or none")
            remarks.append(f"only {few}, so these are no labels")
            continue
        texts = [file.text for file in chosen if file.text is not None]
        if len(texts) < len(chosen):
            without = next(file for file in chosen if file.text is None)
            what = f"no field {field!r}" if field else "no field 'label' or 'cls'"
            said = f"{without.name} has {what}, only {without.fields}; name it as label_field (--label-field)"
            if texts or field:
                raise ValueError(f"{where}: {said}")
            remarks.append(said)
            continue
        if suffix == ".txt" and _are_captions(texts):
            remarks.append(f"the .txt members hold {len(set(texts)):,} different texts, which are no classes")
            continue
        vocabulary = [file.text for file in texts_of(suffix, files, everywhere) if file is not None]
        found = labels_of_texts(texts, where, vocabulary)
        remarks.append(found.remark or f"labels are those of the {suffix} members")
        if n := len(chosen) - len({id(file) for file in chosen}):
            remarks.append(f"{n:,} images share their {suffix} member with another image")
        return found._replace(remark="; ".join(remarks))
    return Labelling(None, None, "; ".join(remarks) or None)


def _are_captions(texts: list[str]) -> bool:
    """Tell whether texts describe single images: most of them occur once, and they are words."""
    words = sum(not text.replace(".", "").replace("-", "").isdigit() for text in texts)
    return 2 * words > len(texts) and len(set(texts)) > max(1, len(texts) // 2)


def _parsed(name: str, text: str, field: str | None) -> LabelFile:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{name!r} is not JSON: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(content, dict):
        return LabelFile(name, None, "none")
    fields = sys.intern(", ".join(map(repr, list(content)[:8])) or "none")
    value = next((content[key] for key in ([field] if field else _JSON_FIELDS) if key in content), None)
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        return LabelFile(name, " ".join(str(int(one) if isinstance(one, bool) else one) for one in value), fields)
    if value is not None and not isinstance(value, str | int | float):
        raise LabelError(f"label of {name!r} must be a text, a number or a list of numbers, got {value!r:.60}")
    return LabelFile(name, None if value is None else str(int(value) if isinstance(value, bool) else value), fields)


def _shown(stem: Stem) -> str:
    return "/".join(stem[1])
