"""Checkpoints: the newest whole one is read, hashed or of an earlier version."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from steady_runs import BadInput
from steady_runs.checkpoint import Checkpoints
from steady_runs.keys import generator, key, permutation, with_replacement


def state(step: int) -> dict[str, Any]:
    return {"step": step, "network": OrderedDict(w=torch.full((3,), float(step))), "losses": [0.5], "untrained": None}


def saved(folder: Path, *steps: int) -> Checkpoints:
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(state(step))
    return checkpoints


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3)
    loaded, warning = checkpoints.load()
    assert loaded is not None
    assert (loaded["step"], loaded["losses"], loaded["untrained"], warning) == (3, [0.5], None, None)
    assert torch.equal(loaded["network"]["w"], torch.full((3,), 3.0))
    assert torch.load(checkpoints.previous, weights_only=True)["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


@pytest.mark.parametrize("has_links", [True, False])
def test_one_is_kept_for_longer(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_links:
        monkeypatch.setattr("os.link", lambda source, target: (_ for _ in ()).throw(PermissionError(1, "no links")))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.load_kept() is None
        for step in range(1, 6):
            checkpoints.save(state(step), keep=step in (1, 2))
            checkpoints.wait()
            kept = checkpoints.load_kept()
            assert kept is not None
            assert kept["step"] == min(step, 2)
            if step == 2:
                assert checkpoints.kept.samefile(checkpoints.last) == has_links
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.kept.pt",
        "checkpoint.previous.pt",
        "checkpoint.pt",
    ]


def test_a_death_between_the_names_harms_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file has the name of the kept one already, and is still `checkpoint.part`: that is not written over."""
    checkpoints = saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("steady_runs.checkpoint.os.replace", lambda a, b: os.rename(a, b) if "kept" in str(b) else die())
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        checkpoints.save(state(2), keep=True)
        with pytest.raises(OSError, match="killed"):
            checkpoints.wait()
    assert (tmp_path / "checkpoint.part").samefile(checkpoints.kept)
    checkpoints.save(state(3))
    checkpoints.wait()
    kept, (last, _) = checkpoints.load_kept(), checkpoints.load()
    assert kept is not None
    assert last is not None
    assert (kept["step"], last["step"]) == (2, 3)


def die() -> None:
    raise OSError("killed")


def test_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).load() == (None, None)


def test_the_copy_does_not_change_with_the_state(tmp_path: Path) -> None:
    weights = torch.zeros(1000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({"w": weights})
        weights += 1
    loaded, _ = checkpoints.load()
    assert loaded is not None
    assert not loaded["w"].any()


@pytest.mark.parametrize("unhashed", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.9, 1.0])
def test_a_changed_byte_is_noticed(place: float, unhashed: bool, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    content = bytearray(checkpoints.last.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    checkpoints.last.write_bytes(content)
    loaded, warning = checkpoints.load(unhashed=unhashed)
    assert loaded is not None
    assert loaded["step"] == 1
    assert warning is not None
    assert "damaged" in warning
    assert (tmp_path / "checkpoint.damaged").exists()


def test_only_damaged_files_are_an_error(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    os.truncate(checkpoints.last, 100)
    with pytest.raises(BadInput, match="start the run anew"):
        checkpoints.load()


def test_a_file_without_a_hash_is_read_if_asked_for(tmp_path: Path) -> None:
    """As the benchmarks wrote it before checkpoints had hashes."""
    torch.save(state(7), tmp_path / "checkpoint.pt")
    torch.save(state(6), tmp_path / "checkpoint.previous.pt")
    loaded, warning = Checkpoints(tmp_path).load(unhashed=True)
    assert loaded is not None
    assert (loaded["step"], warning) == (7, None)
    os.truncate(tmp_path / "checkpoint.pt", 500)
    loaded, warning = Checkpoints(tmp_path).load(unhashed=True)
    assert loaded is not None
    assert loaded["step"] == 6
    with pytest.raises(BadInput):
        Checkpoints(tmp_path).load()


def test_a_file_with_code_is_not_read(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    torch.save({"step": Evil()}, tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.previous.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput):
        Checkpoints(tmp_path).load(unhashed=True)
    assert not canary.exists()


def test_a_failed_write_is_raised_by_the_next_call(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "gone")
    checkpoints.save(state(1))
    with pytest.raises(OSError, match="gone"):
        checkpoints.wait()
    checkpoints.wait()


def test_random_choices_are_functions_of_their_keys() -> None:
    assert key(3, "order", 0) == 4917129201955457761  # the bits of every run depend on it
    assert key(3, "order", 0) != key(3, "order", 1)
    assert torch.equal(permutation(9, 3, "order", 0), torch.randperm(9, generator=generator(3, "order", 0)))
    draws = with_replacement(4, 1000, 1, "draw")
    assert sorted(set(draws.tolist())) == [0, 1, 2, 3]
