"""All parts, each in a process of its own with a limit of its own; `run.sh` starts this.

    python -m benchmarks.gpu.run FOLDER [--mode gpu|pretend|cpu] [--minutes 9] [--only steps rivals_kmeans]

Writes FOLDER/record.json, record.md and log.txt, anew after each part and every few seconds of one, so that whoever
ends this early finds what was done. Exit code 0 if every part ended and no row is wrong, else 1."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import MODES
from benchmarks.gpu.pretend import environment as able_to_pretend
from benchmarks.gpu.record import Record

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Planned:
    """A part and its limit in seconds. Parts of one stage run at the same time: nothing in them is timed."""

    name: str
    seconds: int
    stage: str


# correctness first: figures of a step that is wrong say nothing
TOGETHER = [
    "kernels_sinkhorn",
    "kernels_kmeans",
    *(f"kernels_crops:{which}" for which in ("clustering", "contrastive", "sizes")),
    "kernels_network",
    *(f"steps:{method}" for method in ("deepcluster", "odc", "deepcluster_v2", "swav")),
    "resume:killed",
    "one_rank",
]
PLAN = [
    Planned("imports", 90, "imports"),
    *(Planned(name, 180, "correct") for name in TOGETHER),
    Planned("rivals_crops", 60, "rivals_crops"),
    Planned("rivals_kmeans", 90, "rivals_kmeans"),
    Planned("rivals_sinkhorn", 60, "rivals_sinkhorn"),
    Planned("step_speed:cifar", 120, "step_speed:cifar"),
    Planned("resume:training", 75, "resume:training"),
    Planned("step_speed:imagenet", 150, "step_speed:imagenet"),
]
SLOWER = 4  # without a GPU sizes are small, and the machine may be too


class Running:
    """A part in a process group of its own, which is killed whole."""

    def __init__(self, part: Planned, mode: str, work: Path, log: Any, seconds: float, threads: int) -> None:
        self.part, self.began, self.limit = part, time.monotonic(), seconds
        self.rows_file = work / f"{part.name.replace(':', '_')}.json"
        command = [sys.executable, "-m", "benchmarks.gpu.part", part.name, "--mode", mode]
        command += ["--out", str(self.rows_file), "--seconds", str(max(1.0, seconds - 5))]
        self.output = (work / f"{part.name.replace(':', '_')}.log").open("w+")
        self.log = log
        environment = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"} | os.environ
        environment |= able_to_pretend() if mode == "pretend" else {}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def figures(self) -> dict[str, Any]:
        """Status, seconds and rows as they are now; a process that is over its limit is killed."""
        code, took = self.process.poll(), time.monotonic() - self.began
        status, message = "running", ""
        if code is None and took > self.limit:
            self.kill()
            code, status, message = self.process.wait(), "stopped", f"at its limit of {self.limit:.0f} s"
        elif code is not None and code < 0:
            status, message = "crashed", f"{signal.Signals(-code).name}; {self._last_line()}"
        elif code is not None:
            status, message = ("done", "") if code == 0 else ("crashed", f"exit code {code}; {self._last_line()}")
        rows = json.loads(self.rows_file.read_text()) if self.rows_file.exists() else []
        return {"status": status, "message": message, "seconds": round(took, 1), "rows": rows}

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def into_log(self) -> None:
        self.output.seek(0)
        self.log.write(f"\n===== {self.part.name} =====\n" + self.output.read()[-100_000:])
        self.log.flush()
        self.output.close()

    def _last_line(self) -> str:
        self.output.seek(0)
        lines = self.output.read()[-5000:].strip().splitlines()
        return lines[-1][:300] if lines else ""


def run(folder: Path, mode: str, minutes: float, plan: list[Planned], jobs: int, built_from: str) -> Record:
    began = time.monotonic()
    where = {"gpu": "a GPU", "pretend": "a pretended GPU (no figure of speed means anything)", "cpu": "a CPU"}[mode]
    about = {
        "title": f"One run on {where}",
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "sources": built_from,
        "commit": _commit(),
        "minutes at most": minutes,
    }
    record = Record(folder, about, [part.name for part in plan])
    record.write()
    stages = list(dict.fromkeys(part.stage for part in plan))
    with (folder / "log.txt").open("w") as log, tempfile.TemporaryDirectory() as work:
        for stage in stages:
            waiting = [part for part in plan if part.stage == stage]
            n_together = min(jobs, len(waiting))
            running: list[Running] = []
            try:
                while waiting or running:
                    while waiting and len(running) < n_together:
                        part = waiting.pop(0)
                        limit = part.seconds * (1 if mode == "gpu" else SLOWER)
                        left = 60 * minutes - (time.monotonic() - began)
                        if left < 15:
                            record.parts[part.name]["status"] = "no time left"
                            continue
                        threads = max(1, len(os.sched_getaffinity(0)) // n_together)
                        running.append(Running(part, mode, Path(work), log, min(limit, left), threads))
                    for each in running:
                        record.parts[each.part.name] = each.figures()
                    for each in [each for each in running if each.process.poll() is not None]:
                        name = each.part.name
                        if record.parts[name]["status"] == "running":  # ended since it was looked at
                            record.parts[name] = each.figures()
                        each.into_log()
                        running.remove(each)
                        print(record.line(name), flush=True)
                    record.about["minutes taken"] = round((time.monotonic() - began) / 60, 1)
                    record.write()
                    time.sleep(0.5)
            finally:
                for each in running:
                    each.kill()
    record.write()
    return record


def _commit() -> str:
    try:
        told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "no git here"
    return told.stdout.strip() or "no git here"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=MODES, default="gpu")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--only", nargs="+", help="parts by name, or by the beginning of it")
    parser.add_argument("--jobs", type=int, help="parts that run at once where nothing is timed")
    parser.add_argument("--built-from", default="the working tree")
    given = parser.parse_args()
    plan = [part for part in PLAN if given.only is None or part.name.startswith(tuple(given.only))]
    if not plan:
        parser.error(f"--only {' '.join(given.only)}: no such part; there is {', '.join(part.name for part in PLAN)}")
    gpu = given.mode == "gpu"
    minutes, jobs = given.minutes or (9.0 if gpu else 60.0), given.jobs or (len(TOGETHER) if gpu else 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` ends the parts
    record = run(given.folder, given.mode, minutes, plan, jobs, given.built_from)
    print(f"\n{record.markdown().split(f'## {plan[0].name}')[0].rstrip()}\n\n{given.folder / 'record.md'}")
    return 0 if record.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
