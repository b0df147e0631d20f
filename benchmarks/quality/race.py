"""Who runs when, and on which core. One of ours and a rival run side by side: the machine's noise meets both."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.entrants.table import RANDOM, Entrant
from benchmarks.quality.job import Job
from benchmarks.quality.records import ROOT, Record, Records, machine, versions

MAIN = ROOT / "benchmarks" / "quality"
SPARE_S = 1800  # for imports, images, trial and score; whoever takes longer over its budget is ended
LONG = 150  # minutes from which only the best of either side run
POLL_S = 2.0


@dataclass(frozen=True)
class Start:
    """A run that is due."""

    entrant: str
    minutes: float
    seed: int


def pairs(starts: Sequence[Start], ours: set[str]) -> list[tuple[Start, Start | None]]:
    """Ours beside a rival, in order; those that are left over beside each other, the last one alone."""
    left = [start for start in starts if start.entrant in ours]
    right = [start for start in starts if start.entrant not in ours]
    n = min(len(left), len(right))
    rest = left[n:] + right[n:]
    mixed: list[tuple[Start, Start | None]] = list(zip(left[:n], right[:n], strict=True))
    return mixed + [(rest[i], rest[i + 1] if i + 1 < len(rest) else None) for i in range(0, len(rest), 2)]


def best_of_each_side(records: Sequence[Record], ours: set[str]) -> list[str]:
    """The entrants of either side with the highest mean kNN at the longest budget that both have run."""
    done = [record for record in records if record["state"] == "finished" and record["minutes"] > 0]
    for minutes in sorted({record["minutes"] for record in done if record["minutes"] < LONG}, reverse=True):
        scores: dict[str, list[float]] = {}
        for record in done:
            if record["minutes"] == minutes:
                scores.setdefault(record["entrant"], []).append(record["final"]["knn200"])
        means = {name: sum(values) / len(values) for name, values in scores.items()}
        sides = [[name for name in means if (name in ours) is side] for side in (True, False)]
        if all(sides):
            return [max(side, key=lambda name: means[name]) for side in sides]
    return []


class Race:
    """Runs what is due, and writes a record of each run.

    Args:
        records: Where records are; a run that has one is not due.
        work: Folder for everything else.
        entrants: The table.
        images: Folder of `images.prepare`.
        cores: One or two numbers.
        retry: Whether runs are due that failed.
    """

    def __init__(
        self,
        records: Records,
        *,
        work: Path,
        entrants: Mapping[str, Entrant],
        images: Path,
        cores: Sequence[int],
        retry: bool = False,
    ) -> None:
        self.records, self.work, self.entrants, self.images = records, work, entrants, images
        self.cores, self.retry = list(cores)[:2], retry
        self.ours = {name for name, entrant in entrants.items() if entrant.is_ours}

    def run(self, budgets: Sequence[float], names: Sequence[str] | None, seeds: Sequence[int] | None) -> int:
        """Race. Returns 0 if every run that was due has finished, else 1."""
        everyone = [name for name, entrant in self.entrants.items() if not entrant.is_variant]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the runs in hand are ended, too
        n_failed = 0
        for seed in seeds or (0, 1, 2):
            for name in RANDOM:
                if self._is_due(start := Start(name, 0, seed)):
                    n_failed += self._together([start])
        for minutes in budgets:
            chosen = names or (everyone if minutes < LONG else best_of_each_side(self.records.all(), self.ours))
            for seed in seeds or ((0, 1, 2) if minutes <= 20 else (0,)):
                starts = [start for name in chosen if self._is_due(start := Start(name, minutes, seed))]
                for i, (left, right) in enumerate(pairs(starts, self.ours)):
                    both = [left] if right is None else [left, right]
                    if len(self.cores) < 2:
                        n_failed += sum(self._together([start]) for start in both)
                    else:
                        n_failed += self._together(both, swapped=bool(i % 2))
        return 1 if n_failed else 0

    def _is_due(self, start: Start) -> bool:
        record = self.records.read(start.entrant, start.minutes, start.seed)
        if record is None or (self.retry and record["state"] == "failed"):
            return True
        if record["settings"] != json.loads(json.dumps(self._settings(start))):
            path = self.records.path(start.entrant, start.minutes, start.seed)
            print(f"       {path.name} was made with other settings; delete it to run it again", flush=True)
        return False

    def _settings(self, start: Start) -> dict[str, Any]:
        if start.entrant in RANDOM:
            return RANDOM[start.entrant]
        return self.entrants[start.entrant].settings_for(start.minutes)

    def _together(self, starts: list[Start], swapped: bool = False) -> int:
        """Run and score side by side; write the records. Returns how many failed.

        Someone left over runs beside a second run of the same, which is thrown away: nobody has the machine alone.
        """
        cores = self.cores[::-1] if swapped else self.cores
        runs = [Run(self._job(start), core) for start, core in zip(starts, cores, strict=False)]
        companions = []
        if len(starts) == 1 and len(cores) == 2 and starts[0].minutes:
            companions.append(Run(self._job(starts[0], "companion-"), cores[1]))
        beside = [[other.entrant for other in starts if other is not start] for start in starts]
        said = " | ".join(f"{start.entrant} seed {start.seed}" for start in starts)
        print(f"{time.strftime('%H:%M')}  {starts[0].minutes:g} min: {said}", flush=True)
        try:
            race([*runs, *companions])
            for companion in companions:
                shutil.rmtree(companion.job.folder, ignore_errors=True)
            finished = [run for run in runs if run.error is None]
            for run in finished:
                run.begin("--score", run.job.folder)
            race(finished, started=True)
        finally:
            for run in [*runs, *companions]:
                run.end()
        for start, run, others in zip(starts, runs, beside, strict=True):
            self._record(start, run, others)
        return sum(run.error is not None for run in runs)

    def _job(self, start: Start, prefix: str = "") -> Job:
        name = f"{prefix}{start.entrant}-{start.minutes:g}min-seed{start.seed}"
        folder = self.work / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        module = "untrained" if start.entrant in RANDOM else self.entrants[start.entrant].module
        return Job(
            *(start.entrant, module, self._settings(start), 60 * start.minutes, start.seed),
            *(self.images, folder, self.work / "speeds"),
        )

    def _record(self, start: Start, run: Run, beside: list[str]) -> None:
        record: Record = {
            "entrant": start.entrant,
            "minutes": start.minutes,
            "seed": start.seed,
            "state": "finished" if run.error is None else "failed",
            "error": run.error,
            "date": time.strftime("%Y-%m-%d"),
            "beside": beside,
            "settings": run.job.settings,
            "n_train": int(self.images.name.rsplit("-", 1)[1]),
            "versions": versions(),
            "machine": machine(),
        }
        if run.error is None:
            outcome = json.loads((run.job.folder / "outcome.json").read_text())
            record |= {name: outcome[name] for name in ("command", "ended", "wall_s", "steps", "n_images", "notes")}
            record["images_per_s"] = round(outcome["n_images"] / max(outcome["wall_s"], 1e-9), 1)
            record["cpu_s"] = round(run.cpu_s, 1)
            record["startup_s"] = None if run.startup_s is None else round(run.startup_s, 1)
            record["peak_rss_mib"] = run.peak_mib
            record |= json.loads((run.job.folder / "scores.json").read_text())
            record["curve"] = outcome["curve"]
            if start.minutes:
                final = record["final"]
                told = ", ".join(f"{name} {final[name]:.1f}" for name in ("knn200", "knn20", "linear"))
                print(f"       {start.entrant}: {told} %, {record['images_per_s']:.0f} images/s", flush=True)
        else:
            print(f"       {start.entrant} failed: {run.error}", flush=True)
        self.records.write(record)
        shutil.rmtree(run.job.folder / "run", ignore_errors=True)


class Run:
    """A job's process, held on one core, in a session of its own so that all its children end with it.

    Attributes:
        error: The last line of what a failed process said; None so far.
        peak_mib: Most memory of the process and its children at once, looked at every two seconds.
        cpu_s: Time on the core within the budget; less than the wall's where others use the core too.
        startup_s: From the start of the process until the images were in memory, our trials included.
    """

    def __init__(self, job: Job, core: int) -> None:
        self.job, self.core = job, core
        self.error: str | None = None
        self.peak_mib = 0
        self.cpu_s = 0.0
        self.startup_s: float | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, *arguments: str | Path) -> None:
        log = (self.job.folder / f"log{arguments[0]}.txt").open("wb")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, str(MAIN), *map(str, arguments)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {self.core}),
                env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
            )
        self._log, self._is_scoring = Path(log.name), arguments[0] == "--score"
        self._began, self._limit_s = time.monotonic(), self.job.seconds + SPARE_S

    def is_over(self) -> bool:
        """Look at the process; note its memory, and its error once it has failed."""
        assert self.process is not None
        code = self.process.poll()
        if self.startup_s is None and (self.job.folder / "began").exists():
            self.startup_s = time.monotonic() - self._began
            self._cpu_before = usage(self.process.pid)[1]
        if code is None:
            mib, cpu_s = usage(self.process.pid)
            if not self._is_scoring and self.startup_s is not None:
                self.peak_mib, self.cpu_s = max(self.peak_mib, mib), max(self.cpu_s, cpu_s - self._cpu_before)
            if time.monotonic() - self._began > self._limit_s:
                self.end()
                self.error = f"took more than {self._limit_s:.0f} s"
            return self.error is not None
        if code != 0:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            told = lines[-1] if lines else f"ended with {code}"
            self.error = told.replace(str(ROOT), ".").replace(str(self.job.folder.parent.parent), "WORK")
        return True

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


def race(runs: Sequence[Run], started: bool = False) -> None:
    """Run all at the same time, until the last is over."""
    if not started:
        for run in runs:
            run.begin("--run", run.job.write())
    waiting = list(runs)
    while waiting:
        waiting = [run for run in waiting if not run.is_over()]
        if waiting:
            time.sleep(min(POLL_S, 0.2 if waiting[0].job.seconds < 60 else POLL_S))


def usage(session: int) -> tuple[int, float]:
    """Memory in MiB and seconds of the processor of all processes of a session, and of their children that have ended.

    Pages that two processes share count twice.
    """
    memory, ticks, page = 0, 0, os.sysconf("SC_PAGE_SIZE")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session:
                memory += int(fields[21]) * page
                ticks += sum(map(int, fields[11:15]))
        except (OSError, IndexError):  # it has ended
            continue
    return memory // 2**20, ticks / os.sysconf("SC_CLK_TCK")
