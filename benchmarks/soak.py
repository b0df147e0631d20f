"""Does a long run leak, or slow down? Memory and speed of one run over hours, and their slopes.

    python benchmarks/soak.py --minutes 120 odc
    python benchmarks/soak.py --minutes 120 --record benchmarks/records/DATE-soak.md swav --data folder:photos

Everything after the options is a command line of apps/pretrain, without --epochs and --out. Memory is the proportional
set size (PSS) of the process and its children, so pages that they share count once. The first tenth of the time is left
out of the slopes: caches fill, and the first checkpoint's copy is made."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in tree(int(child)))]


def memory_mib(pid: int) -> float:
    total = 0.0
    for process in tree(pid):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--every", type=float, default=10, help="seconds between two looks")
    parser.add_argument("--record", type=Path)
    given, command = parser.parse_known_args()
    out = Path(tempfile.mkdtemp()) / "run"
    arguments = [*command, "--epochs", "1000000", "--on-collapse", "warn", "--no-report", "--quiet", "--out", str(out)]
    process = subprocess.Popen([sys.executable, str(ROOT / "apps" / "pretrain"), *arguments])
    began, seen = time.monotonic(), []
    while process.poll() is None and time.monotonic() - began < 60 * given.minutes:
        time.sleep(given.every)
        try:
            seen.append((time.monotonic() - began, memory_mib(process.pid)))
        except (FileNotFoundError, ProcessLookupError):  # a process ended between the list of names and the look
            continue
    process.send_signal(signal.SIGTERM)
    code = process.wait()

    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_s"] for line in metrics if "images_per_s" in line]
    rates = rates[len(rates) // 10 :]
    hours = [t / 3600 for t, _ in seen[len(seen) // 10 :]]
    sizes = [size for _, size in seen[len(seen) // 10 :]]
    slope = statistics.linear_regression(hours, sizes).slope
    tenth = max(1, len(rates) // 10)
    first, last = statistics.median(rates[:tenth]), statistics.median(rates[-tenth:])
    text = (
        f"- `python benchmarks/soak.py --minutes {given.minutes:g} {' '.join(command)}`: "
        f"{metrics[-1]['step']:,} steps, exit code {code} by SIGTERM\n"
        f"- memory {sizes[0]:.0f} MiB at first, {sizes[-1]:.0f} at the end, most {max(sizes):.0f}; "
        f"slope {slope:+.1f} MiB an hour\n"
        f"- images a second, median of the first and last tenth: {first:.0f}, {last:.0f} ({last / first - 1:+.1%})\n"
    )
    print(text, end="")
    if given.record:
        given.record.write_text(text)


if __name__ == "__main__":
    main()
