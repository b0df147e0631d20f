"""The command line: a method, `--recipe`, `resume`, `compare` or `recipes`. Every setting is an option."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from steady_runs import BadInput, Command, Program, nearest, parse_options, run_argument, run_program

from pretrain.recipe_files import check_settings, read_recipe, recipe_for, recipe_names
from pretrain.rules import rates_of
from pretrain.settings import METHODS, Machine, RunSettings

EXAMPLES = """
A method trains a small network on embedded images. With --data folder:PATH it trains on your photographs: a ResNet-50
at 224 px if there is a GPU, else a small network for about ten minutes.

examples:
  uv run apps/pretrain odc
  uv run apps/pretrain odc --data folder:photos --epochs 50
  uv run apps/pretrain resume runs/odc-1
  uv run torchrun --nproc-per-node 8 apps/pretrain --recipe {recipe} --data folder:imagenet
"""

MAY_CHANGE = {*Machine.model_fields, "max_steps"} - {"out"}  # on resume: what does not change what is learnt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes are those of `steady_runs.command_line`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0].startswith("--recipe="):
        arguments[:1] = ["--recipe", arguments[0].removeprefix("--recipe=")]
    return run_program(_program(), arguments)


def _program() -> Program:
    def method(name: str, settings: type[RunSettings]) -> Command:
        what = f"train with {(settings.__doc__ or name).strip()}"
        return Command(name, what, lambda arguments: _train(_default_recipe(name, arguments), name, arguments))

    return Program(
        "pretrain",
        "Learn image representations without labels by clustering.",
        (
            *(method(name, settings) for name, settings in METHODS.items()),
            Command(
                "--recipe",
                "train with a recipe by name, or a TOML file such as runs/odc-1/config.toml",
                _recipe,
                "NAME [options]",
            ),
            Command("resume", "go on after any stop; RUN is a run folder", _resume, "RUN [options]"),
            Command("compare", "results of several runs side by side", _compare, "RUN ..."),
            Command("recipes", "list the recipes, with expected result and cost", _list_recipes, ""),
        ),
        EXAMPLES.format(recipe=recipe_names()[-1]),
        memory_advice="take --micro-batch 64 or a smaller --batch",
    )


def _recipe(arguments: list[str]) -> None:
    if not arguments:
        raise BadInput("--recipe needs a name; `pretrain recipes` lists them")
    _train(arguments[0], f"--recipe {arguments[0]}", arguments[1:])


def _train(recipe: str, command: str, arguments: list[str]) -> None:
    """Train with a recipe whose values the options override."""
    values, about = read_recipe(recipe)
    base = check_settings(values, recipe)
    description = about.get("what", f"Train with {recipe}.")
    given = parse_options(arguments, type(base), program=f"pretrain {command}", description=description, defaults=base)
    if {"epochs", "steps"} <= values.keys():
        raise BadInput(f"{recipe}: gives epochs and steps; leave one of them out")
    if "epochs" in given:
        values.pop("steps", None)
        given.pop("steps", None)
    settings = check_settings({**values, **given})
    remarks = []
    if recipe == f"{command}_photos_cpu":  # chosen by the machine
        remarks.append(
            f"on a CPU: a small network, recipe {recipe}; --recipe {command}_photos is a ResNet-50 at 224 px"
        )
    from pretrain.train import train  # torch and the rest take seconds to import; `--help` need not wait

    train(settings, remarks=remarks, rates=rates_of(base, settings, given))


def _resume(arguments: list[str]) -> None:
    if {"-h", "--help"} & {*arguments}:
        what = "Go on after any stop, from the last checkpoint. Options that are left out stay as they were in the run."
        parse_options(["--help"], RunSettings, program="pretrain resume RUN", description=what, allowed=MAY_CHANGE)
    from pretrain.run_folder import PretrainFolder

    run, options = run_argument(arguments, "pretrain resume")
    folder = PretrainFolder.existing(run)
    settings = folder.read_config()
    given = parse_options(options, type(settings), program="pretrain resume RUN", defaults=settings, allowed=MAY_CHANGE)
    was, now = settings.resident, given.get("resident", settings.resident)
    if was != now and (was.isdecimal() or now.isdecimal()):  # on, off and auto give the same crops; a size does not
        raise BadInput(f"--resident {now}: the run began with --resident {was}, and a size changes the images; keep it")
    settings = check_settings({**settings.model_dump(exclude_none=True), **given})
    from pretrain.train import train

    train(settings, resume=folder)


def _compare(arguments: list[str]) -> None:
    from rich.console import Console

    from pretrain.compare import table

    if not arguments:
        raise BadInput("needs run folders, such as: pretrain compare runs/odc-1 runs/swav-1")
    Console(emoji=False).print(table(arguments))


def _list_recipes(arguments: list[str]) -> None:
    if arguments:
        raise BadInput(f"recipes takes no arguments, got '{arguments[0]}'{nearest(arguments[0], recipe_names())}")
    lines = []
    for name in recipe_names():
        values, about = read_recipe(name)
        lines += [name, f"    {about['what']}", f"    expect: {about['expect']}", f"    cost:   {about['cost']}"]
        lines += [f"    source: {about['source']}"] if "source" in about else []
        length = f"{values['steps']} steps" if "steps" in values else f"{values['epochs']} epochs"
        lines += [f"    data:   {values['data']}, {length}, batch {values['batch']}", ""]
    print("\n".join(lines).rstrip())


def _default_recipe(method: str, arguments: list[str]) -> str:
    """The recipe of a method by --data and --device, before the options can be parsed."""
    parser: Any = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--data", nargs="?")
    parser.add_argument("--device", nargs="?")
    given = parser.parse_known_args(arguments)[0]
    return recipe_for(method, given.data, lambda: given.device == "cuda" or (given.device != "cpu" and _has_gpu()))


def _has_gpu() -> bool:
    from torch import cuda  # takes seconds to import

    return cuda.is_available()
