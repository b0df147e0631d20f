"""Command line: a method, a recipe, `resume` or `recipes`; every setting of `config.py` is an option."""

from __future__ import annotations

import argparse
import errno
import inspect
import os
import sys
import time
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

from pretrain.config import METHODS, Machine, Settings
from pretrain.errors import BadInput, TrainingFailed, one_line
from pretrain.recipe_files import build, nearest, read_recipe, recipe_for, recipe_names
from pretrain.unexpected import describe

USAGE = """\
usage: pretrain METHOD [options]          on embedded images; or on yours, with ResNet-50: --data folder:PATH
       pretrain --recipe NAME [options]   a recipe by name, or a TOML file such as runs/odc-1/config.toml
       pretrain resume RUN [options]      go on after any stop; RUN is a run folder
       pretrain recipes                   what there is, with expected result and cost

methods: {methods}
examples:
  uv run apps/pretrain odc
  uv run apps/pretrain odc --data folder:photos --epochs 50
  uv run torchrun --nproc-per-node 8 apps/pretrain --recipe {recipe} --data folder:imagenet

`pretrain METHOD --help` explains every option. --traceback shows where an unexpected error came from."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
GONE = {errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV}
ON_RESUME = {*Machine.model_fields, "max_steps"} - {"out"}  # what may change without changing what is learnt


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a fault of ours, 2 bad input, 3 training failed, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if traced := "--traceback" in arguments:
        arguments.remove("--traceback")
    try:
        return _main(arguments)
    except BadInput as error:
        return _fail(error, 2)
    except TrainingFailed as error:
        return _fail(error, 3)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return _fail(f"cannot write: {error.strerror}; the last checkpoint is whole: free space, then resume", 3)
        if isinstance(error, OSError) and error.errno in GONE:
            text = f"the run folder cannot be written any more: {error}; what is there is whole: mend it, resume"
            return _fail(text, 3)
        if isinstance(error, RuntimeError) and _is_of_another_rank(error):
            _leave(error)
        if traced:
            raise
        return _fail(describe(error), 3 if type(error).__name__ == "OutOfMemoryError" else 1)


def _leave(error: RuntimeError) -> NoReturn:
    """After a collective that failed: end at once, as the threads of a broken group end in an abort."""
    text = f"another process is gone or silent ({str(error).splitlines()[0][:100]}); the last checkpoint is whole"
    code = _fail(text, 3)
    sys.stderr.flush()
    time.sleep(3)  # torchrun blames whom it finds gone first: let that be the one who is
    os._exit(code)


def _fail(error: object, code: int) -> int:
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"pretrain: {rank}{one_line(error)}", file=sys.stderr)
    return code


def _is_of_another_rank(error: RuntimeError) -> bool:
    """Whether a collective failed: torch has a class for that in NCCL, and words in gloo."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo", "Connection closed by peer")
    )


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(methods=", ".join(METHODS), recipe=recipe_names()[-1]))
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command == "recipes":
        print(_list_of_recipes())
        return 0
    if command == "resume":
        return _resume(rest)
    if command in METHODS:
        recipe = recipe_for(command, _data(rest))
    elif command == "--recipe":
        if not rest:
            raise BadInput("--recipe needs a name; `pretrain recipes` lists them")
        recipe, rest = rest[0], rest[1:]
    elif command.startswith("--recipe="):
        recipe = command.removeprefix("--recipe=")
    else:
        known = [*METHODS, "resume", "recipes", "--recipe"]
        raise BadInput(f"unknown command '{command}'{nearest(command, known)}; commands: {', '.join(known)}")
    values, _ = read_recipe(recipe)
    base = build(values, recipe)
    given = _parse(rest, base, type(base).model_fields)
    return _train(
        build({**values, **given}, "--" + next(iter(given)).replace("_", "-") if len(given) == 1 else "options")
    )


def _resume(arguments: list[str]) -> int:
    from pretrain.run_folder import RunFolder

    if not arguments or arguments[0].startswith("-"):
        raise BadInput("resume needs the run folder, such as: pretrain resume runs/odc-1")
    folder, settings = RunFolder.open(arguments[0])
    given = _parse(arguments[1:], settings, ON_RESUME)
    was, now = settings.resident, given.get("resident", settings.resident)
    if was != now and (was.isdecimal() or now.isdecimal()):  # on, off and auto give the same crops; a size does not
        raise BadInput(f"--resident {now}: the run began with --resident {was}, and a size changes the images; keep it")
    return _train(build({**settings.model_dump(exclude_none=True), **given}, "options"), folder)


def _train(settings: Settings, folder: Any = None) -> int:
    from pretrain.interrupt import Interrupted  # torch and the rest take seconds to import; `recipes` need not wait
    from pretrain.loop import train

    try:
        train(settings, resume=folder)
    except Interrupted as stop:
        return _fail(stop, 130)
    return 0


def _data(arguments: list[str]) -> str | None:
    """The value of --data, before there is a recipe whose options could be parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--data", nargs="?")
    data: str | None = parser.parse_known_args(arguments)[0].data
    return data


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(message)


def _parse(arguments: list[str], base: Settings, allowed: typing.Collection[str]) -> dict[str, Any]:
    """Options -> the values given. Types and ranges are checked by the settings model; here only names are."""
    settings = type(base)
    parser = _Parser(
        prog=f"pretrain {base.method}",
        description=settings.__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for section in reversed(settings.__mro__):
        own = [name for name in inspect.get_annotations(section) if name in settings.model_fields]
        names = [name for name in own if name in allowed and name != "method"]
        if not names:
            continue
        group = parser.add_argument_group((section.__doc__ or "").strip())
        for name in names:
            field, default = settings.model_fields[name], getattr(base, name)
            option, text = "--" + name.replace("_", "-"), (field.description or "").replace("%", "%%")
            if field.annotation is bool:
                group.add_argument(option, action=argparse.BooleanOptionalAction, help=text)
            else:
                several: Any = {"nargs": "+"} if typing.get_origin(field.annotation) is tuple else {}
                shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
                text += f" (default: {shown})" if shown not in (None, "") else ""
                group.add_argument(option, metavar=_metavar(field.annotation), help=text, **several)
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        name = unknown[0].split("=")[0]
        where = "" if allowed is settings.model_fields else " here"
        raise BadInput(f"unknown option '{name}'{where}{nearest(name, known)}; --help lists them")
    return vars(values)


def _metavar(annotation: Any) -> str:
    """`Literal["a", "b"]` -> `{a,b}`; a number or a text -> `N`, `X`, `TEXT`."""
    choices = [str(a) for a in typing.get_args(annotation) if isinstance(a, str)]
    if choices:
        return "{" + ",".join(choices) + "}"
    plain = str(annotation)
    return "N" if "int" in plain else "X" if "float" in plain else "TEXT"


def _list_of_recipes() -> str:
    lines = []
    for name in recipe_names():
        values, about = read_recipe(name)
        lines += [name, f"    {about['what']}", f"    expect: {about['expect']}", f"    cost:   {about['cost']}"]
        lines += [f"    source: {about['source']}"] if "source" in about else []
        lines += [f"    data:   {values['data']}, {values['epochs']} epochs, batch {values['batch']}", ""]
    return "\n".join(lines).rstrip()
