"""Recipes: settings as TOML, from the package or from any file, checked and frozen.

A recipe is flat: `method = "odc"`, then any field of that method's settings (`settings/`). Its `[about]` table is for
`pretrain recipes` and for readers. Unknown keys are an error that names the nearest known key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from steady_runs import BadInput, checked, nearest

from pretrain.settings import METHODS, RunSettings

PHOTOGRAPHS = (
    "folder:",
    "list:",
    "tar:",
    "csv:",
    "jsonl:",
    "parquet:",
    "hf:",
    "stl10",
)  # sources of images of any size


def recipe_for(method: str, data: str | None, has_gpu: Callable[[], bool]) -> str:
    """The recipe of `pretrain METHOD`.

    Args:
        method: Its name.
        data: The value of --data; None = embedded images.
        has_gpu: Asked only where it matters.

    Returns:
        For photographs a ResNet-50 at 224 px on a GPU, a small network at 24 px on a CPU; for other images a small
        network.
    """
    if not data or not data.startswith(PHOTOGRAPHS):
        return f"{method}_shapes"
    return f"{method}_photos" if has_gpu() else f"{method}_photos_cpu"


def recipe_names() -> list[str]:
    return sorted(f.name.removesuffix(".toml") for f in _recipes().iterdir() if f.name.endswith(".toml"))


def read_recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a recipe of the package by name, or any TOML file by path: (settings, `[about]` table). Raises BadInput."""
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


def check_settings(values: Mapping[str, Any], source: str | None = None) -> RunSettings:
    """Check values by field name and freeze them.

    Args:
        values: Must include `method`.
        source: File that they come from, for the error message; None = the command line.

    Raises:
        BadInput: For the first value that is wrong.
    """
    method = values.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise BadInput(f"{source}: method must be one of {', '.join(METHODS)}, got {method!r}")
    return checked(METHODS[method], values, source)


def dump(settings: RunSettings, about: Mapping[str, Any] | None = None) -> str:
    """All settings as TOML, with an `[about]` table if given. `pretrain --recipe config.toml` repeats the run."""
    return tomli_w.dumps(settings.model_dump(exclude_none=True) | ({"about": dict(about)} if about else {}))


def _recipes() -> Any:
    return resources.files("pretrain") / "recipes"
