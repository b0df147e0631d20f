"""Kill runs at random moments, again and again, and compare what they become with a run that nobody killed.

    python tests/kill_runs.py --method odc --trials 100 --seed 0

A moment is an event: a step, a line of metrics.jsonl, a piece of a checkpoint being written, a flush, a rename; its
kind is drawn first, so that the thousands of pieces do not hide the few renames. The process gets SIGKILL right before
it, so halves of files are left behind as a power cut would leave them; then it is resumed, and with even odds killed
again. At the end weights, memories and metrics must be those of the other run, bit for bit. Prints one line a method;
exit code 1 if any run differed."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from pretrain import checkpoint, loop  # noqa: F401  # imported before the forks, which then start in no time
from pretrain.build import METHODS
from pretrain.cli import main
from pretrain.run_folder import RunFolder
from small_run import SMALL_RUNS, lines, same_weights, untimed

Event = tuple[str, int]  # its kind, and which of that kind


def fork(arguments: list[str], die_at: Event | None, count_into: Path | None = None) -> int:
    """Run `pretrain ARGUMENTS` in a child that dies before event `die_at`; returns the exit code, -9 if it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        torch.set_num_threads(1)
        n_events: Counter[str] = Counter()

        def before(kind: str, owner: Any, name: str) -> None:
            function = getattr(owner, name)

            def counted(*a: Any, **k: Any) -> Any:
                n_events[kind] += 1
                if (kind, n_events[kind]) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*a, **k)

            setattr(owner, name, counted)

        before("rename", os, "replace")
        before("flush", os, "fsync")
        before("piece", checkpoint._Hashed, "write")
        before("line", RunFolder, "append_metrics")
        for method in METHODS.values():
            before("step", method, "after_step")
        code = main(arguments)
        if count_into is not None:
            count_into.write_text(json.dumps(n_events))
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    os._exit(code)


def trial(method: str, folder: Path, n_events: dict[str, int], chance: random.Random) -> int:
    """One run, killed at least once; returns how often."""

    def moment() -> Event:
        kind = chance.choice(sorted(n_events))
        return kind, chance.randint(1, n_events[kind])

    out = folder / "run"
    n_kills = 0
    arguments = [method, *SMALL_RUNS[method], "--checkpoint-every", "1", "--out", str(out)]
    code = fork(arguments, moment())
    while code == -signal.SIGKILL:
        n_kills += 1
        if not (out / "config.toml").exists():  # killed before there was a run: it is started as it was before
            shutil.rmtree(out, ignore_errors=True)
            code = fork(arguments, None)
        else:
            again = moment() if chance.random() < 0.5 else None
            code = fork(["resume", str(out), "--quiet"], again)
    if code != 0:
        raise AssertionError(f"{method}: exit code {code} after {n_kills} kills")
    same_weights(folder / "whole", out)
    a, b = untimed(lines(folder / "whole")), untimed(lines(out))
    for x, y in zip(a, b, strict=False):
        assert x == y, f"metrics.jsonl: {y} instead of {x}"
    assert len(a) == len(b), f"metrics.jsonl: {len(b)} lines instead of {len(a)}"
    return n_kills


def kill(method: str, n_trials: int, seed: int) -> bool:
    chance = random.Random(f"{method} {seed}")
    folder = Path(tempfile.mkdtemp())
    arguments = [method, *SMALL_RUNS[method], "--checkpoint-every", "1", "--out", str(folder / "whole")]
    assert fork(arguments, None, count_into=folder / "events") == 0
    n_events = json.loads((folder / "events").read_text())
    kills, differing = 0, 0
    for number in range(n_trials):
        try:
            kills += trial(method, folder, n_events, chance)
        except AssertionError as error:
            differing += 1
            print(f"{method}, trial {number}: {str(error).strip().splitlines()[0]}", flush=True)
        shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.rmtree(folder)
    print(
        f"{method}: {n_trials} runs of {sum(n_events.values()):,} events, {kills} kills, {differing} differ", flush=True
    )
    return differing == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=list(SMALL_RUNS), choices=list(SMALL_RUNS))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(0 if all([kill(method, given.trials, given.seed) for method in given.method]) else 1)
