"""List names of tests with 60 characters or more and exit 1: a line of pytest's report should hold a name."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 60
NAME = re.compile(r"^\s*(?:async\s+)?def\s+(test_\w+)\s*\(", re.M)


def main() -> int:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    long = [
        f"{path}: {name} has {len(name)} characters"
        for path in sorted(set(tracked.stdout.split()))
        if (ROOT / path).exists()
        for name in NAME.findall((ROOT / path).read_text())
        if len(name) >= LIMIT
    ]
    print("\n".join([*long, f"names of tests stay below {LIMIT} characters"]) if long else "names of tests: ok")
    return int(bool(long))


if __name__ == "__main__":
    sys.exit(main())
