"""Checkpoints: equal after the way through a file, whole whatever happens, refused when a bit is wrong."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import ROOT
from steady_runs import BadInput
from steady_runs.checkpoint import Checkpoints

N_DAMAGES = int(os.environ.get("CLUSTER_SSL_FUZZ", 300))


def state(step: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(step)
    memory = {"bank": torch.randn(40, 8, generator=g), "half": torch.randn(3, generator=g).half(), "n": torch.tensor(3)}
    return {"step": step, "memory": memory, "order": None, "losses": [0.5, 0.25], "groups": [{"lr": 0.1, "at": (0, 1)}]}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def saved(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(state(step))
    checkpoints.wait()
    return checkpoints


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).load() == (None, None)
    found, warning = saved(tmp_path, 1, 2, 3).load()
    assert warning is None
    assert same(found, state(3))
    assert same(torch.load(tmp_path / "checkpoint.previous.pt", weights_only=True), state(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_what_is_saved_is_the_state_at_the_call(tmp_path: Path) -> None:
    checkpoints, now = Checkpoints(tmp_path), state(1)
    checkpoints.save(now)
    now["memory"]["bank"].zero_()  # training goes on while the file is written
    checkpoints.wait()
    assert same(checkpoints.load()[0], state(1))


def test_a_damaged_file_is_put_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.last.write_bytes(checkpoints.last.read_bytes()[:-200])
    found, warning = checkpoints.load()
    assert same(found, state(1))
    assert warning is not None
    assert "checkpoint.pt is damaged" in warning
    checkpoints.save(state(3))  # and does not take the place of the good one
    checkpoints.wait()
    assert same(torch.load(checkpoints.previous, weights_only=True), state(1))
    assert same(checkpoints.load()[0], state(3))


def test_only_damaged_files_are_an_error(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    checkpoints.last.write_bytes(b"")
    with pytest.raises(BadInput, match=r"checkpoint\.pt is damaged.*start the run anew"):
        checkpoints.load()


def test_no_damage_is_ever_loaded(tmp_path: Path) -> None:
    """Random flips of bits, cuts, and bytes at the end: recognised each time, by hash and not by luck."""
    good = saved(tmp_path, 1).last.read_bytes()
    chance = random.Random(0)
    for _ in range(N_DAMAGES):
        content = bytearray(good)
        kind = chance.choice(["flip", "cut", "more", "swap"])
        if kind == "flip":
            for _ in range(chance.choice([1, 1, 1, 20])):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del content[chance.randrange(len(content)) :]
        elif kind == "more":
            content += chance.randbytes(chance.randrange(1, 100))
        else:
            a, b = sorted(chance.sample(range(len(content)), 2))
            content[a:b] = reversed(content[a:b])
        if content == good:
            continue
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(BadInput):
            Checkpoints(tmp_path).load()


def test_a_pickle_that_runs_code_is_no_checkpoint(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (canary.write_text, ("ran",))

    torch.save({"step": Code()}, tmp_path / "checkpoint.pt")
    with pytest.raises(BadInput):
        Checkpoints(tmp_path).load()
    import steady_runs.checkpoint as module

    with (tmp_path / "checkpoint.pt").open("wb") as file:  # even with the right hash
        module._write_hashed({"step": Code()}, file)
    with pytest.raises(BadInput):
        Checkpoints(tmp_path).load()
    assert not canary.exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, 1, 2)

    def full(state: Any, file: Any) -> None:
        file.write(b"half a ")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("steady_runs.checkpoint._write_hashed", full)
    checkpoints.save(state(3))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(state(4))
    assert same(checkpoints.load()[0], state(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["odc", "deepcluster_v2"])
def test_killed_runs_end_as_if_nothing_had_happened(method: str) -> None:
    """A few of what `nox -s kill` does a hundred times."""
    command = [sys.executable, str(ROOT / "tests" / "kill_runs.py"), "--method", method, "--trials", "3", "--seed", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs" in done.stdout
