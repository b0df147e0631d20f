"""Recipes: settings as TOML, from the package or from any file, checked and frozen.

A recipe is flat: `method = "odc"`, then any field of that method's settings (`config.py`); its `[about]` table is for
`recipes` and for readers. Unknown keys fail and name the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from pretrain.config import METHODS, Settings
from pretrain.errors import BadInput

PHOTOGRAPHS = ("folder:", "list:", "tar:", "stl10")  # sources of images of any size


def recipe_for(method: str, data: str | None) -> str:
    """The recipe of `pretrain METHOD`: a small network for small images, ResNet-50 at 224 px for photographs."""
    return f"{method}_photos" if data and data.startswith(PHOTOGRAPHS) else f"{method}_shapes"


def recipe_names() -> list[str]:
    return sorted(f.name.removesuffix(".toml") for f in _recipes().iterdir() if f.name.endswith(".toml"))


def read_recipe(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A recipe by name, or any TOML file by path -> (its settings, its `[about]` table)."""
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--recipe {name}: {error.strerror}") from None
        except ValueError as error:  # bytes that are no UTF-8; a name that no file can have
            raise BadInput(f"--recipe {name}: not a TOML file ({error})") from None
    elif name in recipe_names():
        text = (_recipes() / f"{name}.toml").read_text()
    else:
        raise BadInput(f"unknown recipe '{name}'{nearest(name, recipe_names())}; `pretrain recipes` lists them")
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # also a number of thousands of digits
        raise BadInput(f"{name}: not a TOML file ({error})") from None
    except RecursionError:
        raise BadInput(f"{name}: not a recipe, which is flat (tables in tables without end)") from None
    return values, values.pop("about", {})


def build(values: Mapping[str, Any], source: str) -> Settings:
    """Check `values` and freeze them; `source` is what an error message points at."""
    method = values.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise BadInput(f"{source}: method must be one of {', '.join(METHODS)}, got {method!r}")
    settings = METHODS[method]
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{source}: {_one_line(error, list(settings.model_fields))}") from None


def dump(settings: Settings) -> str:
    """The settings as TOML, whole, such that `--recipe config.toml` repeats the run."""
    return tomli_w.dumps(settings.model_dump(exclude_none=True))


def nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def _one_line(error: ValidationError, known: list[str]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key '{name}'{nearest(name, known)}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not name:  # said by a check of the whole, which names the options itself
        return message
    verb = "" if first["type"] == "value_error" else "should be "
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{name.replace('_', '-')} {verb}{message}{got}" if verb else f"{name.replace('_', '-')}: {message}"


def _recipes() -> Any:
    return resources.files("pretrain") / "recipes"
