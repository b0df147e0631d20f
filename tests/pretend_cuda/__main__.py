"""Runs pytest or a script in a process that can pretend CUDA.

uv run tests/pretend_cuda                                  every case
uv run tests/pretend_cuda training                         cases/training.py; options of pytest may follow: -k swav -x
uv run tests/pretend_cuda script.py                        a script that uses `pretend_cuda.pretended()`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a folder, by its path

from pretend_cuda.build import HERE, environment, unavailable

PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib --strict-markers")


def command(arguments: list[str]) -> list[str]:
    """What Python is to run."""
    first = Path(arguments[0]) if arguments else None
    if first is not None and first.suffix == ".py" and first.resolve().parent != HERE / "cases":
        return arguments
    files = [str(HERE / "cases" / f"{a}.py") if (HERE / "cases" / f"{a}.py").exists() else a for a in arguments]
    if not any(a.split("::")[0].endswith(".py") for a in files):
        files += [str(path) for path in sorted((HERE / "cases").glob("*.py")) if path.name != "conftest.py"]
    # ranks fork, which they can no more once a gradient was computed; options keep their order behind their names
    return [*PYTEST, *sorted(files, key=lambda file: not file.endswith("ranks.py"))]


def main() -> None:
    if reason := unavailable():
        sys.exit(reason)
    os.execve(sys.executable, [sys.executable, *command(sys.argv[1:])], environment())


if __name__ == "__main__":
    main()
