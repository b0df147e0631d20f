"""Kill runs at random moments, again and again, and compare what they become with a run that nobody killed.

    python tests/kill_runs.py --method odc --trials 100 --seed 0

A moment is an event: a step, a line of metrics.jsonl, a piece of a checkpoint being written, a flush, a rename; its
kind is drawn first, so that the thousands of pieces do not hide the few renames. Right before it the process gets a
signal: SIGKILL in half of the cases, which leaves halves of files behind as a power cut would, or another one that
people and schedulers send or that crashes end with. Checkpoints come every step, every third, or at a stop only. The
run is resumed, and with even odds told to die again. At the end weights, memories and metrics must be those of the
other run, bit for bit. Prints one line a method; exit code 1 if any run differed."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pretrain.train  # noqa: F401  # imported before the forks, so that they start fast
import steady_runs.checkpoint
import torch
from pretrain.assemble import method_class
from pretrain.cli import main
from pretrain.settings import METHODS
from small_run import SMALL_RUNS, lines, same_weights, untimed
from steady_runs import RunFolder

Event = tuple[str, int]  # its kind, and which of that kind
Death = tuple[Event, signal.Signals]
OTHERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU, signal.SIGALRM]
OTHERS += [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE]
STOPPED = 130  # the exit code of a run that saved and ended because it was told to
CHECKPOINTS = ("1", "3", "1000")  # --checkpoint-every


def fork(arguments: list[str], death: Death | None, count_into: Path | None = None) -> int:
    """Run `pretrain ARGUMENTS` in a child that gets a signal right before an event; returns the exit code, or minus
    the signal that it died of."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        torch.set_num_threads(1)
        n_events: Counter[str] = Counter()

        def before(kind: str, owner: Any, name: str) -> None:
            function = getattr(owner, name)

            def counted(*a: Any, **k: Any) -> Any:
                n_events[kind] += 1
                if death is not None and (kind, n_events[kind]) == death[0]:
                    os.kill(os.getpid(), death[1])
                return function(*a, **k)

            setattr(owner, name, counted)

        before("rename", os, "replace")
        before("flush", os, "fsync")
        before("piece", steady_runs.checkpoint._Hashed, "write")
        before("line", RunFolder, "append_metrics")
        for method in map(method_class, METHODS):
            before("step", method, "after_step")
        code = main(arguments)
        if count_into is not None:
            count_into.write_text(json.dumps(n_events))
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    os._exit(code)


def command(method: str, every: str, out: Path) -> list[str]:
    return [method, *SMALL_RUNS[method], "--checkpoint-every", every, "--out", str(out), "--quiet"]


def trial(method: str, folder: Path, n_events: dict[str, dict[str, int]], chance: random.Random) -> Counter[str]:
    """One run, told to die at least once; returns what it ended by, and how often."""
    every, out = chance.choice(CHECKPOINTS), folder / "run"

    def death() -> Death:
        kind = chance.choice(sorted(n_events[every]))
        by = signal.SIGKILL if chance.random() < 0.5 else chance.choice(OTHERS)
        return (kind, chance.randint(1, n_events[every][kind])), by

    ends: Counter[str] = Counter()
    code = fork(command(method, every, out), death())
    while code == STOPPED or code < 0:
        ends["saved and stopped" if code == STOPPED else signal.Signals(-code).name] += 1
        if not (out / "config.toml").exists():  # killed before there was a run: it is started as it was before
            shutil.rmtree(out, ignore_errors=True)
            code = fork(command(method, every, out), None)
        else:
            code = fork(["resume", str(out), "--quiet"], death() if chance.random() < 0.5 else None)
    if code != 0:
        raise AssertionError(f"exit code {code} after {dict(ends)}")
    same_weights(folder / "whole", out)
    assert (out / "backbone.safetensors").read_bytes() == (folder / "whole" / "backbone.safetensors").read_bytes()
    a, b = untimed(lines(folder / "whole")), untimed(lines(out))
    for x, y in zip(a, b, strict=False):
        assert x == y, f"metrics.jsonl: {y} instead of {x}"
    assert len(a) == len(b), f"metrics.jsonl: {len(b)} lines instead of {len(a)}"
    return ends


def kill(method: str, n_trials: int, seed: int) -> bool:
    chance = random.Random(f"{method} {seed}")
    folder = Path(tempfile.mkdtemp())
    n_events = {}
    for every in CHECKPOINTS:
        shutil.rmtree(folder / "whole", ignore_errors=True)
        assert fork(command(method, every, folder / "whole"), None, count_into=folder / "events") == 0
        n_events[every] = json.loads((folder / "events").read_text())
    ends: Counter[str] = Counter()
    n_differing = 0
    for number in range(n_trials):
        try:
            ends += trial(method, folder, n_events, chance)
        except AssertionError as error:
            n_differing += 1
            print(f"{method}, trial {number}: {str(error).strip().splitlines()[0]}", flush=True)
        shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.rmtree(folder)
    by = ", ".join(f"{name} {n}" for name, n in ends.most_common())
    print(f"{method}: {n_trials} runs, {ends.total()} deaths ({by}), {n_differing} differ", flush=True)
    return n_differing == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=list(SMALL_RUNS), choices=list(SMALL_RUNS))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(0 if all([kill(method, given.trials, given.seed) for method in given.method]) else 1)
