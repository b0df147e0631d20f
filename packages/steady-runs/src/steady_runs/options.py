"""Options of a command, derived from its settings model."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from steady_runs.errors import BadInput
from steady_runs.settings import Settings, choices, is_fixed, n_values, nearest, option_name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; --help explains")


def parse_options(
    arguments: Sequence[str],
    model: type[Settings],
    *,
    program: str,
    description: str = "",
    defaults: Settings | None = None,
    allowed: Collection[str] | None = None,
) -> dict[str, Any]:
    """Parse options into the values that were given, by field name. Types and ranges are checked later, by `checked`.

    Args:
        arguments: Command line after the command's name.
        model: Settings of the command.
        program: Heads the help, such as `pretrain odc`.
        description: First paragraph of the help.
        defaults: Settings whose values the help shows as defaults; the model's own if None.
        allowed: Fields that are options; all but fixed ones if None.

    Raises:
        BadInput: For an unknown option, with the nearest known one, or a missing value.
    """
    fields = [name for name in _option_fields(model) if allowed is None or name in allowed]
    parser = _Parser(
        prog=program,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage=f"{program} [options]",
    )
    for section in _sections(model):
        names = [name for name in inspect.get_annotations(section) if name in fields]
        if names:
            group = parser.add_argument_group(_heading(section))
            for name in names:
                _add(group, name, model, defaults)
    values, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        name = unknown[0].split("=")[0]
        what = "option" if name.startswith("-") else "argument"
        where = "" if allowed is None else " here"
        raise BadInput(f"unknown {what} '{name}'{where}{nearest(name, known)}; --help lists them")
    return vars(values)


def _option_fields(model: type[Settings]) -> list[str]:
    return [name for name, field in model.model_fields.items() if not is_fixed(field.annotation)]


def _sections(model: type[Settings]) -> list[type]:
    """The classes of the inheritance chain, base first."""
    return [section for section in reversed(model.__mro__) if issubclass(section, Settings)]


def _heading(section: type) -> str:
    return (section.__doc__ or "").strip().split("\n")[0]


def _add(group: Any, name: str, model: type[Settings], defaults: Settings | None) -> None:
    field = model.model_fields[name]
    text = " ".join((field.description or "").split()).replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(option_name(name), action=argparse.BooleanOptionalAction, help=text)
        return
    default = getattr(defaults, name) if defaults is not None else field.get_default(call_default_factory=True)
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    if default not in (None, "", ()):
        text += f" (default: {shown})".replace("%", "%%")
    group.add_argument(
        option_name(name), metavar=_metavar(field.annotation), nargs=n_values(field.annotation), help=text
    )


def _metavar(annotation: Any) -> str:
    """`Literal["a", "b"]` -> `{a,b}`; a number or a text -> `N`, `X`, `TEXT`."""
    if found := choices(annotation):
        return "{" + ",".join(map(str, found)) + "}"
    plain = str(annotation)
    return "X" if "float" in plain else "N" if "int" in plain else "TEXT"
