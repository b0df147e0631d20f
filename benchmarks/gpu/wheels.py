"""What the wheels folder is to hold: `wheels.py pins NAME ...`, `wheels.py sources`. Standard library only."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pins(names: list[str]) -> list[str]:
    """NAME==VERSION as the root pyproject pins them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = dict(p.split(";")[0].strip().split("==") for p in project["tool"]["uv"]["constraint-dependencies"])
    missing = [name for name in names if name not in pinned]
    if missing:
        sys.exit(f"pyproject.toml pins no {', '.join(missing)}: name what it pins")
    return [f"{name}=={pinned[name]}" for name in names]


def sources() -> str:
    """A hash over what our wheels are built from, so that old wheels are not taken for new ones."""
    digest = hashlib.sha256()
    files = [path for folder in ("packages", "apps") for path in (ROOT / folder).glob("*/src/**/*") if path.is_file()]
    files += [path for folder in ("packages", "apps") for path in (ROOT / folder).glob("*/pyproject.toml")]
    for path in sorted(files):
        if not re.search(r"__pycache__|\.egg-info|\.pyc$", str(path)):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    print("\n".join(pins(sys.argv[2:])) if sys.argv[1] == "pins" else sources())
