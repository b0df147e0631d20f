"""Which columns of a table hold the images, the labels and the split."""

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from ._decode import EXTENSIONS
from ._layout import few
from ._reading import Fields
from ._split_columns import Table, asked_for, is_split_column, listed, may_be_a_class, plain, says_split, text_of

_IMAGES = {
    *("image", "images", "img", "picture", "photo", "path", "file", "filename", "filepath", "imagepath", "imgpath"),
    *("imagefile", "imgfile", "imagefilename", "imagename", "imgname", "imagefilepath", "relativepath", "relpath"),
}
_IDS = {"id", "imageid", "imgid", "photoid", "pictureid", "fileid", "uuid", "name", "stem"}
_LABELS = {
    *("label", "labels", "class", "classes", "target", "targets", "category", "species", "y", "groundtruth", "gt"),
    *("classname", "classid", "classlabel", "classindex", "classidx", "labelname", "labelid", "categoryname"),
    *("categoryid", "targetname", "targetid", "breed", "diagnosis"),
}
_TAGS = {"tags", "attributes", "findinglabels"}  # labels if nothing else is
_BITS = {"0", "1", "-1", "0.0", "1.0", "-1.0"}
_NO_LABELS = {"text", "caption", "description", "url", "title", "comment", "width", "height", "size", "score", "index"}
_SAMPLE = 1_000


class Chosen(NamedTuple):
    """The columns of a table that matter.

    Attributes:
        image: Column of the images.
        labels: Column of the labels; several are 0/1 columns of one class each; empty if there are none.
        remark: What was found, for the header of a run.
    """

    image: str
    labels: list[str]
    remark: str


def choose(table: Table, fields: Fields) -> Chosen:
    """Find the columns of images and labels by their usual names, or else by what they hold.

    Raises:
        ValueError: If there is no such column, or several.
    """
    names = list(table.columns)
    image = asked_for(fields.image, names, table.file, "--image-field") or _image_column(table)
    others = [name for name in names if name != image and not says_split(table, name)]
    rest = [name for name in others if plain(name) in _LABELS or all(map(_may_be_label, table.columns[name]))]
    labels = _asked_labels(fields.label, names, table.file)
    if not labels:
        labels = _label_columns(table, rest)
    quoted = [repr(name) for name in labels]
    if labels:
        said = f"labels in column {quoted[0]}" if len(labels) == 1 else f"labels in 0/1 columns {few(quoted)}"
    else:
        hint = f"; --label-field names one of {few([repr(name) for name in rest])}" if rest else ""
        odd = [repr(name) for name in others if name not in rest]
        said = f"no column of labels{hint}" + (f"; {few(odd)} holds objects, which are no labels" if odd else "")
    if fields.label is None and any(may_be_a_class(table, name) for name in labels):
        said += "; 'train' is taken for a class: rename it is_train if it says the split"
    return Chosen(image, labels, f"images in column {image!r}, {said}")


def usual_label(names: Collection[str], where: str) -> str | None:
    """Return the column whose name is usual for labels, None without one, and raise ValueError if there are several."""
    found = [name for name in names if plain(name) in _LABELS]
    if len(found) > 1:
        raise ValueError(f"{where}: columns {listed(found)} may all hold labels: name one with --label-field")
    return found[0] if found else None


def may_be_named_label(name: str) -> bool:
    """Tell whether a name is not usual for something else than labels."""
    return plain(name) not in _NO_LABELS | _IDS | _IMAGES and not is_split_column(name)


def usual_image(names: Collection[str]) -> list[str]:
    """Return the columns whose names are usual for images."""
    return [name for name in names if plain(name) in _IMAGES]


def _image_column(table: Table) -> str:
    files = [name for name, values in table.columns.items() if _names_images(values)]
    usual = usual_image(table.columns)
    ids = [name for name in table.columns if plain(name) in _IDS]
    for found in (files, [name for name in files if name in usual], [] if files else usual, [] if files else ids):
        if len(found) == 1:
            return found[0]
    which = files or usual or ids
    if which:
        raise ValueError(f"{table.file}: columns {listed(which)} may all hold images: name one with --image-field")
    raise ValueError(
        f"{table.file}: no column holds names of images ({listed(table.columns)}): name it with --image-field, and "
        "the one of labels with --label-field"
    )


def _names_images(values: Sequence[Any]) -> bool:
    """Tell whether values end in an extension of images, judged by some of them."""
    sample = [text_of(value) for value in values[:: max(1, len(values) // _SAMPLE)]]
    n = sum(text.lower().endswith(EXTENSIONS) for text in sample)
    return n > 0.9 * len(sample)


def _asked_labels(given: str | None, names: list[str], where: str) -> list[str]:
    if given is not None and "," in given and given not in names:
        return [str(asked_for(part.strip(), names, where, "--label-field")) for part in given.split(",")]
    column = asked_for(given, names, where, "--label-field")
    return [] if column is None else [column]


def _label_columns(table: Table, rest: list[str]) -> list[str]:
    usual = [name for name in rest if plain(name) in _LABELS]
    if len(usual) == 2:
        usual = _the_one_with_names(table, usual)
    if len(usual) > 1:
        raise ValueError(f"{table.file}: columns {listed(usual)} may all hold labels: name one with --label-field")
    if usual:
        return usual
    tags = [name for name in rest if plain(name) in _TAGS]
    if len(tags) == 1:
        return tags
    if not table.is_named:
        if len(rest) > 1:
            raise ValueError(
                f"{table.file} has {len(rest) + 1} columns without names: write a first line such as path,label, or "
                f"name them ({listed(table.columns)}) with --image-field and --label-field"
            )
        return rest
    bits = [name for name in rest if {text_of(value) for value in table.columns[name]} <= _BITS]
    if len(bits) > 1:
        return [name for name in table.columns if name in bits or may_be_a_class(table, name)]
    if len(rest) == 1 and plain(rest[0]) not in _NO_LABELS | _IDS and _repeats(table.columns[rest[0]]):
        return rest
    return []


def _may_be_label(value: Any) -> bool:
    """Tell whether a value is a text, a number or a list of them; it may be missing."""
    items = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(item, str | int | float) for item in items)


def _the_one_with_names(table: Table, names: list[str]) -> list[str]:
    """Return the column of names if two columns say the same classes, one by number and one by name."""
    first, second = ([text_of(value) for value in table.columns[name]] for name in names)
    pairs = set(zip(first, second, strict=True))
    if not len(pairs) == len(set(first)) == len(set(second)):
        return names
    numbers = [all(re.fullmatch(r"-?\d+", text) for text in set(texts)) for texts in (first, second)]
    return names if numbers[0] == numbers[1] else [names[numbers.index(False)]]


def _repeats(values: list[Any]) -> bool:
    """Tell whether values may be classes: some occur twice, and they are no measurements."""
    texts = {text_of(value) for value in values}
    fractions = any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*(e-?\d+)?", text) for text in texts)
    return len(texts) < len(values) and not fractions
