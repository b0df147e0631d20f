"""Which columns of an Arrow table, as Hugging Face datasets writes it, hold images and labels."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ._columns import may_be_named_label, usual_image, usual_label
from ._label_columns import refuse_lost_sign
from ._reading import Fields
from ._split_columns import asked_for, listed


class ArrowColumns(NamedTuple):
    """The columns that matter.

    Attributes:
        image: Column of images.
        kind: "struct" of bytes and path, "binary", or "text" of paths.
        label: Column of labels, or None.
        names: Names of the classes, or None.
        remark: What was found, for the header of a run.
    """

    image: str
    kind: str
    label: str | None
    names: list[str] | None
    remark: str


def same_columns(schemas: Sequence[tuple[Any, str]], fields: Fields) -> ArrowColumns:
    """Return the columns of several tables, each given with its name for messages.

    Those of a held-out split may lack labels.

    Raises:
        ValueError: If they differ otherwise, or as `choose_arrow`.
    """
    found = [choose_arrow(schema, fields, where) for schema, where in schemas]
    first = next((k for k, own in enumerate(found) if own.label), 0)
    for (_, where), own in zip(schemas, found, strict=True):
        if (own.image, own.kind) != found[first][:2] or own.label not in (found[first].label, None):
            raise ValueError(f"{where}: {own.remark}, but in {schemas[first][1]}: {found[first].remark}")
        if own.label and own.names != found[first].names:
            raise ValueError(f"{where}: the class names differ from those of {schemas[first][1]}")
    return found[first]


def choose_arrow(schema: Any, fields: Fields, where: str) -> ArrowColumns:
    """Find the columns by their types, and by usual names where several have the same.

    Raises:
        ValueError: If no column may hold images, or several.
    """
    kinds = {field.name: kind for field in schema if (kind := _kind(field.type)) is not None}
    features = _features(schema)
    image = asked_for(fields.image, schema.names, where, "--image-field") or _image(schema, kinds, where)
    if image not in kinds:
        raise ValueError(
            f"{where}: column {image!r} holds {schema.field(image).type!s:.80}: expected bytes of an image file, a "
            "struct of bytes and path, or a path"
        )
    rest = [name for name in schema.names if name != image]
    label = asked_for(fields.label, rest, where, "--label-field") or usual_label(rest, where)
    if label is None:
        classes = [name for name in rest if _class_names(features.get(name)) is not None]
        if len(classes) > 1:
            raise ValueError(f"{where}: columns {listed(classes)} may all hold labels: name one with --label-field")
        label = classes[0] if classes else None
    said = f"labels in column {label!r}" if label else "no column of labels"
    possible = [name for name in rest if is_plain(schema, name) and may_be_named_label(name)]
    if possible and not label:
        said += f"; --label-field names one of {listed(possible)}"
    names = _class_names(features.get(label)) if label else None
    return ArrowColumns(image, kinds[image], label, names, f"images in column {image!r}, {said}")


def is_plain(schema: Any, name: str) -> bool:
    """Tell whether there is a column of texts, numbers or truth values."""
    import pyarrow.types as types

    if name not in schema.names:
        return False
    found = schema.field(name).type
    found = found.value_type if types.is_dictionary(found) else found
    return types.is_integer(found) or types.is_floating(found) or types.is_boolean(found) or _kind(found) == "text"


def check_sign(values: Sequence[Any], arrow_type: Any, where: str) -> None:
    """Raise ValueError if labels of an unsigned type hold a -1 that lost its sign."""
    import pyarrow.types as types

    if types.is_unsigned_integer(arrow_type):
        held = [value for value in values if value is not None]
        refuse_lost_sign(np.array(held, dtype=arrow_type.to_pandas_dtype()), where)


def _image(schema: Any, kinds: dict[str, str], where: str) -> str:
    for kind in ("struct", "binary", "text"):
        found = [name for name in kinds if kinds[name] == kind]
        usual = usual_image(found)
        if kind == "text" or (len(found) > 1 and usual):
            found = usual
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{where}: columns {listed(found)} may all hold images: name one with --image-field")
    several = [field.name for field in schema if field.name in usual_image(schema.names)]
    hint = f" ({several[0]!r} holds {schema.field(several[0]).type!s:.80})" if several else ""
    raise ValueError(f"{where}: no column of images among {listed(schema.names)}{hint}: name it with --image-field")


def _kind(arrow_type: Any) -> str | None:
    import pyarrow.types as types

    if types.is_struct(arrow_type):
        inner = {field.name: field.type for field in arrow_type}
        return "struct" if "bytes" in inner and _kind(inner["bytes"]) == "binary" else None
    if types.is_binary(arrow_type) or types.is_large_binary(arrow_type) or types.is_binary_view(arrow_type):
        return "binary"
    if types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type):
        return "text"
    return None


def _features(schema: Any) -> dict[str, Any]:
    """Return what Hugging Face datasets wrote of the columns; nothing where it is missing or damaged."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> list[str] | None:
    """Return the names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return [str(name) for name in feature["names"]]
    return _class_names(feature.get("feature"))
