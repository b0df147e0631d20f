"""Does a long run leak, or slow down? Memory and speed of one run over hours, and their slopes.

    python benchmarks/soak.py --minutes 120 odc
    python benchmarks/soak.py --minutes 120 --record benchmarks/records/DATE-soak.md swav --data folder:photos

Everything after the options is a command line of apps/pretrain, without --epochs and --out. Memory is the proportional
set size of the process and its children, so pages that they share count once: their own (anonymous) and shared
memory, which a leak would be in, and apart from it that of files, which falls where other programs map the same
libraries. Beside it stand open descriptors, threads and memory maps, which leak before memory does. The first tenth of
the time is left out of the slopes: caches fill, and the first checkpoint's copy is made."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision

ROOT = Path(__file__).parents[1]


def tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in tree(int(child)))]


class Look(NamedTuple):
    """What the run and its children hold at one moment."""

    hours: float
    memory_mib: float
    files_mib: float
    descriptors: int
    threads: int
    maps: int


def look(pid: int, began: float) -> Look:
    own, files, descriptors, threads, maps = 0, 0, 0, 0, 0
    for process in tree(pid):
        at = Path(f"/proc/{process}")
        sizes = dict(line.split()[:2] for line in (at / "smaps_rollup").read_text().splitlines()[1:])
        own += int(sizes["Pss_Anon:"]) + int(sizes["Pss_Shmem:"])
        files += int(sizes["Pss_File:"])
        descriptors += len(os.listdir(at / "fd"))
        threads += len(os.listdir(at / "task"))
        maps += (at / "maps").read_text().count("\n")
    return Look((time.monotonic() - began) / 3600, own / 1024, files / 1024, descriptors, threads, maps)


def slope(looks: list[Look], field: str) -> str:
    values = [getattr(at, field) for at in looks]
    rise = statistics.linear_regression([at.hours for at in looks], values).slope
    return (
        f"| {field.replace('_mib', ', MiB')} | {values[0]:.0f} | {values[-1]:.0f} | {max(values):.0f} | {rise:+.1f} |\n"
    )


def by_sixth(rates: list[float]) -> str:
    parts = [rates[len(rates) * i // 6 : len(rates) * (i + 1) // 6] for i in range(6)]
    return ", ".join(f"{statistics.median(part):.0f}" for part in parts if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--every", type=float, default=10, help="seconds between two looks")
    parser.add_argument("--record", type=Path)
    given, command = parser.parse_known_args()
    out = Path(tempfile.mkdtemp()) / "run"
    arguments = [*command, "--epochs", "1000000", "--on-collapse", "warn", "--no-report", "--quiet", "--out", str(out)]
    process = subprocess.Popen([sys.executable, str(ROOT / "apps" / "pretrain"), *arguments])
    began, looks = time.monotonic(), []
    while process.poll() is None and time.monotonic() - began < 60 * given.minutes:
        time.sleep(given.every)
        try:
            looks.append(look(process.pid, began))
        except (FileNotFoundError, ProcessLookupError):  # a process ended between the list of names and the look
            continue
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    if code != 130:
        sys.exit(f"soak: expected a run that goes on until SIGTERM (exit code 130), got exit code {code}")

    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_s"] for line in metrics if "images_per_s" in line]
    if not rates:
        sys.exit(f"soak: no line of metrics has images_per_s after {given.minutes:g} minutes; give more of them")
    looks = looks[len(looks) // 10 :]
    text = (
        f"# {given.minutes:g} minutes of one run\n\n"
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {os.cpu_count()} cores. "
        f"The first tenth of the time is left out of the table.\n\n"
        f"`python benchmarks/soak.py --minutes {given.minutes:g} {' '.join(command)}`: "
        f"{metrics[-1]['step']:,} steps, exit code {code} by SIGTERM.\n\n"
        "| run and its children | first | last | most | slope an hour |\n| --- | --- | --- | --- | --- |\n"
        + "".join(slope(looks, field) for field in Look._fields[1:])
        + f"\nImages a second, median of each sixth of the time: {by_sixth(rates)}.\n"
    )
    print(text, end="")
    if given.record:
        given.record.write_text(text)


if __name__ == "__main__":
    main()
