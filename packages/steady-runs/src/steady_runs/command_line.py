"""From a command line to an exit code, the same way for every program.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | a fault of the program; the traceback is in a file, and `--traceback` prints it |
| 2 | bad input |
| 3 | training failed, the disk is full, or another rank is gone; the last checkpoint is whole |
| 130 | interrupted; the message says what is saved |

Every code but 0 comes with one line on stderr.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from steady_runs.errors import BadInput, TrainingFailed, one_line
from steady_runs.settings import nearest
from steady_runs.unexpected import describe, is_out_of_memory, summary

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
GONE = {errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV}


@dataclass(frozen=True)
class Command:
    """One command of a program.

    Attributes:
        name: What the user types.
        what: One line for `--help`.
        run: Called with the arguments after the name; returns an exit code, None for 0. May raise what `errors.py` has.
        arguments: What follows the name in `--help`, such as `RUN [options]`.
    """

    name: str
    what: str
    run: Callable[[list[str]], int | None]
    arguments: str = "[options]"


@dataclass(frozen=True)
class Program:
    """A program of several commands.

    Attributes:
        name: Also the name of its distribution, whose version `--version` prints.
        what: One line that says what it is for.
        commands: In the order of `--help`.
        more: Examples and notes, printed below the commands.
        memory_advice: What to do when the GPU has no memory left.
    """

    name: str
    what: str
    commands: tuple[Command, ...]
    more: str = ""
    memory_advice: str = "take a smaller --batch"


def run_program(program: Program, argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (`sys.argv` if None) names.

    Without arguments, print the help, as `--help` does, and return 2. `--traceback` anywhere on the command line lets
    unexpected errors through with their traceback.

    Returns:
        The exit code; see the table above.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if traced := "--traceback" in arguments:
        arguments.remove("--traceback")
    try:
        return _run(program, arguments)
    except BadInput as error:
        return fail(program.name, error, 2)
    except TrainingFailed as error:
        return fail(program.name, error, 3)
    except KeyboardInterrupt as error:
        return fail(program.name, str(error) or "stopped", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            text = f"cannot write: {error.strerror}; the last checkpoint is whole: free space, then resume"
            return fail(program.name, text, 3)
        if isinstance(error, OSError) and error.errno in GONE:
            text = f"the run folder cannot be written any more: {error}; what is there is whole: mend it, resume"
            return fail(program.name, text, 3)
        if isinstance(error, RuntimeError) and _is_of_another_rank(error):
            _leave(program.name, error)
        if traced:
            raise
        if is_out_of_memory(error):
            return fail(program.name, f"the GPU has no memory left; {program.memory_advice}. {summary(error)}", 3)
        return fail(program.name, describe(error, program.name), 1)


def help_text(program: Program) -> str:
    """What `PROGRAM --help` prints."""
    rows = [(f"{command.name} {command.arguments}".strip(), command.what) for command in program.commands]
    width = max(len(left) for left, _ in rows)
    lines = [f"  {left:{width}}  {what}" for left, what in rows]
    usage = f"usage: {program.name} COMMAND [options]"
    return "\n".join(
        [
            usage,
            "",
            program.what,
            "",
            "commands:",
            *lines,
            "",
            f"`{program.name} COMMAND --help` explains every option. `{program.name} --version` prints versions.",
            "--traceback shows where an unexpected error came from.",
            *([program.more.rstrip()] if program.more else []),
        ]
    )


def run_argument(arguments: Sequence[str], program: str) -> tuple[str, list[str]]:
    """Split `RUN [options]` into the run folder and the options. Raises BadInput if the folder is missing."""
    if not arguments or arguments[0].startswith("-"):
        raise BadInput(f"{program.split()[-1]} needs the run folder, such as: {program} runs/NAME-1")
    return arguments[0], list(arguments[1:])


def fail(program: str, error: object, code: int) -> int:
    """Print one line on stderr, with the rank if there are several, and return `code`."""
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{program}: {rank}{one_line(error)}", file=sys.stderr)
    return code


def _run(program: Program, arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(program))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(_versions(program.name))
        return 0
    name, rest = arguments[0], arguments[1:]
    for command in program.commands:
        if command.name == name:
            if "[options]" not in command.arguments and {"-h", "--help"} & {*rest}:
                print(f"usage: {program.name} {name} {command.arguments}".rstrip() + f"\n\n{command.what}")
                return 0
            return command.run(rest) or 0
    known = [command.name for command in program.commands]
    if name.startswith("-"):
        raise BadInput(f"'{name}' before the command; the command comes first: {', '.join(known)}")
    raise BadInput(f"unknown command '{name}'{nearest(name, known)}; commands: {', '.join(known)}")


def _versions(name: str) -> str:
    try:
        own = importlib.metadata.version(name)
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return f"{name} (not installed as a distribution)"
    return f"{name} {own} (torch {torch}, Python {platform.python_version()})"


def _is_of_another_rank(error: RuntimeError) -> bool:
    """Whether a collective failed: torch has a class for that in NCCL, and words in gloo."""
    if (torch := sys.modules.get("torch")) is None:
        return False
    return isinstance(error, torch.distributed.DistError) or any(
        word in str(error) for word in ("gloo", "Connection closed by peer")
    )


def _leave(program: str, error: RuntimeError) -> NoReturn:
    """End at once after a failed collective: the threads of a broken group would end the process in an abort."""
    text = f"another process is gone or silent ({str(error).splitlines()[0][:100]}); the last checkpoint is whole"
    code = fail(program, text, 3)
    sys.stderr.flush()
    time.sleep(3)  # torchrun blames the process that ends first: let that be the one that failed
    os._exit(code)
