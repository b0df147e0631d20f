"""Settings of a command: one frozen, typed model from which its options, help, checks and saved file follow."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from steady_runs.errors import BadInput

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of every command's settings.

    A field is an option: `max_steps: int | None = None` becomes `--max-steps N`. The string below a field is its help.
    The docstring of each class in the inheritance chain heads its own fields in `--help`. A field whose type allows one
    value only, such as `method: Literal["odc"]`, is fixed by the command and is not an option.

    Instances are frozen. Use `model_copy(update=...)` for a changed copy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def checked(model: type[S], values: Mapping[str, Any], source: str | None = None) -> S:
    """Validate `values`.

    Args:
        model: Settings of the command.
        values: Values by field name; strings are converted to the field's type.
        source: File that the values come from; the error message starts with it. None = the command line, whose fields
            are named as options.

    Raises:
        BadInput: One line for the first value that is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        where = "" if source is None else f"{source}: "
        raise BadInput(where + _first_error(error, model, as_options=source is None)) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'epochs'?` for the known name closest to `name`; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def option_name(field: str) -> str:
    """`max_steps` -> `--max-steps`."""
    return "--" + field.replace("_", "-")


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, also one inside `Optional` or `tuple`; empty for other types."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return tuple(c for inner in typing.get_args(annotation) for c in choices(inner))


def is_fixed(annotation: Any) -> bool:
    """Whether the type allows one value only, so that there is nothing to choose."""
    return typing.get_origin(annotation) is Literal and len(typing.get_args(annotation)) == 1


def n_values(annotation: Any) -> int | str | None:
    """How many values the option takes: 3 for `tuple[int, int, int]`, "+" for `tuple[int, ...]`, None for one."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((n for n in map(n_values, typing.get_args(annotation)) if n is not None), None)
    if typing.get_origin(annotation) is not tuple:
        return None
    items = typing.get_args(annotation)
    return "+" if Ellipsis in items else len(items)


def _first_error(error: ValidationError, model: type[Settings], *, as_options: bool) -> str:
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key '{field}'{nearest(field, model.model_fields)}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not field:  # a check of the whole model, whose message names the options itself
        return message
    name = option_name(field) if as_options else field
    if first["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name} should be {message}, got {first['input']!r}"
