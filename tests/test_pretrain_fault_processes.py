"""Loader processes that are killed, signals: the run ends in one line, saved as of the step it reached."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from faulty_run import METHOD, arguments, at_step, last_step, of_photos, one_line, photos, resumed_as
from forks import forked, forked_ranks
from pretrain.assemble import method_class
from pretrain.cli import main
from pretrain.saver import _Due
from small_run import lines
from steady_runs import FolderLock, StopSignal
from test_pretrain_ranks import child_of, environment, torchrun, wait_for_step

slow = pytest.mark.slow


def loader_processes() -> list[int]:
    """Forked children of this process."""
    return [int(c) for c in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds loader processes in /proc")
@pytest.mark.parametrize(
    "step", [4, pytest.param(2, marks=slow)], ids=["found by the next clustering", "found in mid-epoch"]
)
def test_a_killed_loader_process(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Linux kills for want of memory, in the middle of a step: what the step learnt is saved."""
    folder = photos(tmp_path / "photos")
    assert main(of_photos(folder, tmp_path / "whole")) == 0
    before = set(loader_processes())

    def kill() -> None:
        mine = set(loader_processes()) - before
        assert len(mine) == 1  # for crops and for features
        os.kill(mine.pop(), signal.SIGKILL)
        time.sleep(0.5)  # so that its end is known in mid-step

    at_step(monkeypatch, step, kill)
    look = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(look, "__defaults__", (0.2,))  # seconds between two looks at the processes, 5 as torch has it
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    out = tmp_path / "run"
    assert main(of_photos(folder, out, "--workers", "1", "--checkpoint-every", "1000")) == 3
    error = one_line(capsys.readouterr().err)
    assert "process that loads images was killed" in error
    assert f"resume {out}" in error
    assert step <= last_step(out) <= 4  # as many steps as there were batches made before
    resumed_as(tmp_path / "whole", out)


def test_a_stop_in_the_middle_of_a_clustering(
    unharmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM while features are extracted: saved as of the last step, and the clustering is begun anew."""
    cluster = method_class(METHOD).cluster

    def told_to_stop(self: Any, run: Any, epoch: int) -> Any:
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return cluster(self, run, epoch)

    monkeypatch.setattr(method_class(METHOD), "cluster", told_to_stop)
    out = tmp_path / "run"
    assert main(arguments(METHOD, out, "--checkpoint-every", "1000")) == 130
    assert f"stopped at step 4; go on with: uv run apps/pretrain resume {out}" in one_line(capsys.readouterr().err)
    assert last_step(out) == 4
    monkeypatch.undo()
    resumed_as(unharmed, out)


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM, signal.SIGTERM), pytest.param((signal.SIGINT, signal.SIGTERM), marks=slow)],
    ids=["SIGTERM twice", "Ctrl-C, then SIGTERM"],
)
def test_a_second_signal_stops_at_once(
    signals: tuple[int, int],
    unharmed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    passed = []
    monkeypatch.setattr("steady_runs.stop.ECHO_S", 0.0)  # what would be a second thought three seconds later

    def both() -> None:
        os.kill(os.getpid(), signals[0])
        passed.append("the first")
        os.kill(os.getpid(), signals[1])
        passed.append("the second")

    at_step(monkeypatch, 3, both)
    out = tmp_path / "run"
    assert main(arguments(METHOD, out)) == 130
    one_line(capsys.readouterr().err)
    assert passed == ["the first"]
    assert last_step(out) == 2  # the step that it cut short is none
    monkeypatch.undo()
    resumed_as(unharmed, out)


def test_a_signal_and_its_echo_are_one(
    unharmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm signals every process of a job, and `torchrun` and `uv run` pass theirs on."""

    def both() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    at_step(monkeypatch, 3, both)
    out = tmp_path / "run"
    assert main(arguments(METHOD, out, "--checkpoint-every", "1000")) == 130
    assert "stopped at step 3" in one_line(capsys.readouterr().err)
    assert last_step(out) == 3
    monkeypatch.undo()
    resumed_as(unharmed, out)


@pytest.mark.parametrize("ignored", [False, pytest.param(True, marks=slow)], ids=["in a terminal", "under nohup"])
def test_a_terminal_that_is_closed(ignored: bool, unharmed: Path, tmp_path: Path) -> None:
    """A lost connection: saved, though nothing can be said any more. Under nohup nothing happens."""
    out = tmp_path / "run"
    command = [a for a in arguments(METHOD, out, "--checkpoint-every", "1000") if ignored or a != "--quiet"]

    def work() -> int:
        # said, not inherited: whoever starts the tests may ignore the signal, as nohup does
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.setsid()
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        if not ignored:
            for stream in (0, 1, 2):
                os.dup2(theirs, stream)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 3, lambda: os.close(ours))
            return main(command)

    code = forked(work, tmp_path / "errors")
    assert (code == 0) == ignored
    assert last_step(out) == (8 if ignored else 3)
    if not ignored:
        resumed_as(unharmed, out)


@slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks' processes in /proc")
def test_a_signal_to_torchrun_stops_and_saves_all_ranks(tmp_path: Path) -> None:
    """As Slurm gives it: to every process, and torchrun passes its own on."""
    out = tmp_path / "run"
    command = torchrun(2, *arguments("odc", out, "--epochs", "1000"), "--checkpoint-every", "100000")
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_step(out, 3, process)
    for pid in (child_of(process, 0), child_of(process, 1), process.pid):
        os.kill(pid, signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    step = last_step(out)
    assert step >= 3
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, step + 1))
    said = [line for line in error.splitlines() if line.startswith("pretrain: ")]
    assert sorted(said) == [
        f"pretrain: rank 0: stopped at step {step}; go on with: uv run apps/pretrain resume {out}",
        f"pretrain: rank 1: stopped at step {step}",
    ]


@pytest.mark.parametrize(("step_s", "within"), [(0.01, 10), (0.5, 4), (6.0, 1)])
def test_all_ranks_stop_soon_after_one_was_told(step_s: float, within: int, tmp_path: Path) -> None:
    """Short steps: within ten; long ones: within seconds. torchrun and Slurm kill thirty seconds after SIGTERM."""
    told_at = 37

    def work() -> int:
        dist.init_process_group("gloo")
        now = 0.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pretrain.saver.time.monotonic", lambda: now)
            signals = StopSignal()
            due = _Due(signals, dist.group.WORLD, 1000, None)
            for step in range(1, 100):
                now += step_s * (1 + dist.get_rank())  # the slower one counts
                if step == told_at and dist.get_rank() == 1:
                    signals.asked = True
                is_due, stop = due.after_step(step)
                assert not is_due
                if stop:
                    return step
        return 99

    done = forked_ranks(2, work, tmp_path)
    assert done.codes[0] == done.codes[1], done.errors
    assert told_at <= done.codes[0] < told_at + within


def test_a_folder_that_another_process_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`resume RUN & resume RUN`: the second one names the first and changes nothing. A lock dies with its process."""
    out = tmp_path / "run"
    assert main(arguments(METHOD, out, "--max-steps", "1")) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    ready, is_ready = os.pipe()
    owner = os.fork()
    if owner == 0:
        with FolderLock(out):
            os.write(is_ready, b"x")
            signal.pause()
    os.read(ready, 1)
    capsys.readouterr()
    assert main(["resume", str(out), "--quiet"]) == 2
    assert f"process {owner} on " in one_line(capsys.readouterr().err)
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    assert main(["resume", str(out), "--quiet"]) == 0
    assert not (out / ".lock").exists()
