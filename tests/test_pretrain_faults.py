"""What may go wrong around a run is done to it: it goes on, or ends in one line with its last good state whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import CAN_HAVE_OWN_DISK, forked, own_disk, read_only
from PIL import Image
from pretrain.build import METHODS
from pretrain.cli import main
from pretrain.data import Loader
from small_run import ROOT, SMALL_RUNS, lines, same_weights, untimed
from test_pretrain_ranks import environment, torchrun, wait_for_step

METHOD = "deepcluster"  # the one whose runs are the shortest, where any method will do
STEPS = list(range(1, 9))
slow = pytest.mark.slow


def arguments(method: str, out: Path, *more: str) -> list[str]:
    return [
        method,
        *SMALL_RUNS[method],
        "--quiet",
        "--knn-every",
        "0",
        "--checkpoint-every",
        "1",
        "--out",
        str(out),
        *more,
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(METHOD, out)) == 0
    return out


def last_step(out: Path) -> int:
    """Of a checkpoint that is whole and finite."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    for name, value in state["method"].items():
        assert name == "nmi" or not value.is_floating_point() or value.isfinite().all(), name
    return int(state["step"])


def one_line(error: str) -> str:
    assert error.startswith("pretrain: "), error
    assert error.count("\n") == 1, error
    return error


def resumed_as(whole: Path, out: Path) -> None:
    """`out`, resumed, becomes what the run without a fault became."""
    assert main(["resume", str(out), "--quiet"]) == 0
    same_weights(whole, out)
    assert untimed(lines(out)) == untimed(lines(whole))
    assert [line["step"] for line in lines(out) if "loss" in line] == STEPS


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, then: Callable[[], None], method: str = METHOD) -> None:
    """Have `then` happen in the middle of step `step`: after the update of the weights."""
    after_step = METHODS[method].after_step

    def and_then(self: Any, run: Any, indices: Any) -> None:
        after_step(self, run, indices)
        if run.step + 1 == step:
            then()

    monkeypatch.setattr(METHODS[method], "after_step", and_then)


# ---- numbers ----


@pytest.mark.parametrize(
    ("method", "log_every"),
    [
        (METHOD, "1"),
        *(pytest.param(method, "1", marks=slow) for method in SMALL_RUNS if method != METHOD),
        *(pytest.param(method, "100", marks=slow) for method in SMALL_RUNS),
    ],
)
def test_nan_in_a_batch(
    method: str, log_every: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pixel, in the sixth step: found when a line is written, or else before a checkpoint is."""
    batches, n_batches = Loader.batches, 0

    def spoilt(self: Loader, epoch: int, indices: list[torch.Tensor], clock: Any = None) -> Iterator[Any]:
        nonlocal n_batches
        for crops, rows in batches(self, epoch, indices, clock):
            if clock is not None:  # a batch to learn from
                n_batches += 1
                if n_batches == 6:
                    crops[0][3, 1, 5, 7] = torch.nan
            yield crops, rows

    monkeypatch.setattr(Loader, "batches", spoilt)
    out = tmp_path / "run"
    assert main(arguments(method, out, "--log-every", log_every)) == 3
    assert "step 6" in one_line(capsys.readouterr().err)
    assert last_step(out) == 5
    monkeypatch.undo()
    assert main(["resume", str(out), "--quiet"]) == 0
    assert last_step(out) == 8


@slow  # test_pretrain_run.py has one for every day
@pytest.mark.parametrize("method", SMALL_RUNS)
def test_a_loss_that_explodes(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(arguments(method, out, "--lr", "1e30")) == 3
    assert "lower --lr" in one_line(capsys.readouterr().err)
    last_step(out)


@pytest.mark.parametrize("method", [METHOD, *(pytest.param(m, marks=slow) for m in SMALL_RUNS if m != METHOD)])
def test_nan_in_the_images_of_a_clustering(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = Loader.batches

    def spoilt(self: Loader, epoch: int, indices: list[torch.Tensor], clock: Any = None) -> Iterator[Any]:
        for crops, rows in batches(self, epoch, indices, clock):
            crops[0][0, 1, 5, 7] = torch.nan
            yield crops, rows

    monkeypatch.setattr(Loader, "batches", spoilt)
    assert main(arguments(method, tmp_path / "run")) == 3
    one_line(capsys.readouterr().err)


# ---- processes ----


def photos(folder: Path, n: int = 120) -> Path:
    folder.mkdir()
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40)).save(folder / f"{i:03}.jpg")
    return folder


def of_photos(folder: Path, out: Path, *more: str) -> list[str]:
    own = arguments(METHOD, out, *more)
    own[own.index("--data") + 1] = f"folder:{folder}"
    del own[own.index("--val") : own.index("--val") + 2]
    return own


def loader_processes() -> list[int]:
    """Forked children of this process."""
    return [int(c) for c in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds loader processes in /proc")
@pytest.mark.parametrize(
    ("which", "step"),
    [(-1, 4), pytest.param(0, 3, marks=slow), pytest.param(-1, 2, marks=slow)],
    ids=["of crops, found after a clustering", "of features, found in a clustering", "of crops, in mid-epoch"],
)
def test_a_killed_loader_process(
    which: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Linux kills for want of memory, in the middle of a step: what the step learnt is saved."""
    folder = photos(tmp_path / "photos")
    assert main(of_photos(folder, tmp_path / "whole")) == 0
    before = set(loader_processes())

    def kill() -> None:
        mine = sorted(set(loader_processes()) - before)
        assert len(mine) == 2
        os.kill(mine[which], signal.SIGKILL)
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
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM while features are extracted: saved as of the last step, and the clustering is begun anew."""
    cluster = METHODS[METHOD].cluster

    def told_to_stop(self: Any, run: Any, epoch: int) -> Any:
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return cluster(self, run, epoch)

    monkeypatch.setattr(METHODS[METHOD], "cluster", told_to_stop)
    out = tmp_path / "run"
    assert main(arguments(METHOD, out, "--checkpoint-every", "1000")) == 130
    assert f"stopped at step 4; go on with: uv run apps/pretrain resume {out}" in one_line(capsys.readouterr().err)
    assert last_step(out) == 4
    monkeypatch.undo()
    resumed_as(whole, out)


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM, signal.SIGTERM), pytest.param((signal.SIGINT, signal.SIGTERM), marks=slow)],
    ids=["SIGTERM twice", "Ctrl-C, then SIGTERM"],
)
def test_a_second_signal_stops_at_once(
    signals: tuple[int, int],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    passed = []

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
    resumed_as(whole, out)


@slow
def test_a_signal_to_torchrun_stops_and_saves_all_ranks(tmp_path: Path) -> None:
    """As Slurm gives it: to torchrun, which passes it on."""
    out = tmp_path / "run"
    command = torchrun(2, *arguments("odc", out, "--epochs", "1000"), "--checkpoint-every", "100000")
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_step(out, 3, process)
    process.send_signal(signal.SIGTERM)
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


# ---- files ----


def test_images_that_vanish_or_are_cut_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of a hundred is replaced and named, a second one ends the run; put back, it goes on."""
    folder = photos(tmp_path / "photos")
    odd = folder / "007\n\udce9.jpg"  # a line break, and a byte that is no UTF-8
    (folder / "007.jpg").rename(odd)
    at_step(monkeypatch, 1, odd.unlink)
    loud = [a for a in of_photos(folder, tmp_path / "run") if a != "--quiet"]
    assert main(loud) == 0
    said = capsys.readouterr().out
    assert "1 damaged file was replaced by others; the first: " in said
    assert "007\\n\\udce9.jpg (" in said
    shutil.copy(folder / "008.jpg", odd)
    content = (folder / "100.jpg").read_bytes()

    def damage() -> None:
        odd.unlink()
        (folder / "100.jpg").write_bytes(content[:300])

    monkeypatch.undo()
    at_step(monkeypatch, 1, damage)
    out = tmp_path / "again"
    assert main(of_photos(folder, out)) == 2
    error = one_line(capsys.readouterr().err)
    assert "2 of 120 images are corrupt, at most 1 may be replaced" in error
    assert "100.jpg" in error
    reached = last_step(out)
    assert main(["resume", str(out), "--quiet"]) == 2  # it lists the folder anew: an image less, other numbers
    assert "119 images, and 120 when the run began" in one_line(capsys.readouterr().err)
    monkeypatch.undo()
    shutil.copy(folder / "008.jpg", odd)
    (folder / "100.jpg").write_bytes(content)
    assert main(["resume", str(out), "--quiet"]) == 0
    assert reached < last_step(out) == 8


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 8, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


@pytest.mark.skipif(not CAN_HAVE_OWN_DISK, reason="a file system of its own needs root on Linux")
def test_a_full_disk(whole: Path, tmp_path: Path) -> None:
    """A real file system, filled to the last byte in the middle of step 5; with room again, the run goes on."""
    disk, out, errors = tmp_path / "disk", tmp_path / "disk" / "run", tmp_path / "errors"
    disk.mkdir()

    def work() -> int:
        own_disk(disk, 20 << 20)
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 5, lambda: fill(disk))
            code = main(arguments(METHOD, out))
        shutil.copytree(out, tmp_path / "failed")
        (disk / "ballast").unlink()
        assert main(["resume", str(out), "--quiet"]) == 0
        shutil.copytree(out, tmp_path / "resumed")
        return code

    assert forked(work, errors) == 3, errors.read_text()
    assert "No space left on device; the last checkpoint is whole" in one_line(errors.read_text())
    assert last_step(tmp_path / "failed") in (3, 4)
    assert not list((tmp_path / "failed").glob("*.part"))
    assert untimed(lines(tmp_path / "resumed")) == untimed(lines(whole))
    same_weights(whole, tmp_path / "resumed")


@pytest.mark.skipif(not CAN_HAVE_OWN_DISK, reason="a file system of its own needs root on Linux")
def test_a_disk_that_turns_read_only(tmp_path: Path) -> None:
    """As Linux does with one that has errors."""
    disk, out, errors = tmp_path / "disk", tmp_path / "disk" / "run", tmp_path / "errors"
    disk.mkdir()

    def work() -> int:
        own_disk(disk, 20 << 20)
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 3, lambda: read_only(disk))
            code = main(arguments(METHOD, out))
        shutil.copytree(out, tmp_path / "failed")
        return code

    assert forked(work, errors) == 3, errors.read_text()
    assert "Read-only file system" in one_line(errors.read_text())
    assert last_step(tmp_path / "failed") in (1, 2)


@slow
@pytest.mark.skipif(not CAN_HAVE_OWN_DISK, reason="a file system of its own needs root on Linux")
def test_a_disk_too_small_from_a_shell(tmp_path: Path) -> None:
    """The command as people start it, to the end of its process: nothing but the line, whatever is flushed at exit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, str(ROOT / "apps/pretrain"), *arguments(METHOD, disk / "run")]
    script = f'mount -t tmpfs -o size=4m none "{disk}" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in one_line(done.stderr)


@slow
def test_a_file_may_not_grow(tmp_path: Path) -> None:
    """A limit on the size of files, which is a quota of one process."""
    out, errors = tmp_path / "run", tmp_path / "errors"

    def work() -> int:
        import resource

        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY)))
            return main(arguments(METHOD, out))

    assert forked(work, errors) == 3, errors.read_text()
    assert "File too large" in one_line(errors.read_text())
    assert last_step(out) == 2


def test_a_run_folder_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    at_step(monkeypatch, 3, lambda: shutil.rmtree(out))
    assert main(arguments(METHOD, out, "--checkpoint-every", "1000")) == 3
    error = one_line(capsys.readouterr().err)
    assert "No such file or directory" in error
    assert str(out) in error


@pytest.mark.parametrize(
    "torn",
    [b"\0" * 512, pytest.param(b'{"step": 4, "ep', marks=slow), pytest.param(b'{"step"\xff', marks=slow)],
    ids=["zeros", "half a line", "no UTF-8"],
)
def test_a_torn_line_of_metrics(torn: bytes, whole: Path, tmp_path: Path) -> None:
    """What a power cut leaves: half a line, or zeros."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    os.replace(out / "checkpoint.previous.pt", out / "checkpoint.pt")  # of step 7
    kept = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join(kept[:-2]) + torn)
    resumed_as(whole, out)


def test_a_damaged_line_of_metrics_is_named(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    kept = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join([kept[0], b"{\n", *kept[2:]]))
    assert main(["resume", str(out), "--quiet"]) == 2
    assert "metrics.jsonl: a line in it is damaged" in one_line(capsys.readouterr().err)


def test_resume_before_the_first_checkpoint_starts_anew(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    config = (whole / "config.toml").read_text()
    (out / "config.toml").write_text(re.sub(r"^out = .*$", f"out = {json.dumps(str(out))}", config, flags=re.M))
    (out / "checkpoint.part").write_bytes(b"half a checkpoint")
    resumed_as(whole, out)
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
