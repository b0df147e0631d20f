"""The race's arithmetic; that every entrant runs is `python benchmarks/quality --minutes 0.2 --seeds 0`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quality.entrants.table import ENTRANTS, with_changes
from benchmarks.quality.job import thinned
from benchmarks.quality.race import Start, best_of_each_side, pairs
from benchmarks.quality.records import Record, Records


def record(entrant: str, minutes: float, knn200: float, seed: int = 0, state: str = "finished") -> Record:
    return {"entrant": entrant, "minutes": minutes, "seed": seed, "state": state, "final": {"knn200": knn200}}


def test_ours_run_beside_rivals() -> None:
    a, b, x, y, z, w = (Start(name, 20, 0) for name in "abxyzw")
    assert pairs([a, b, x, y, z], {"a", "b"}) == [(a, x), (b, y), (z, None)]
    assert pairs([a, x, y, z, w], {"a", "b"}) == [(a, x), (y, z), (w, None)]
    assert pairs([], {"a"}) == []


def test_best_of_each_side_by_the_longest_budget() -> None:
    found = [record("a", 20, 60), record("b", 20, 50), record("x", 20, 40), record("y", 20, 30)]
    found += [record("a", 60, 50), record("b", 60, 70), record("b", 60, 40, seed=1)]
    assert best_of_each_side(found, {"a", "b"}) == ["a", "x"]  # no rival at 60 minutes
    found += [record("y", 60, 45), record("x", 60, 99, state="failed")]
    assert best_of_each_side(found, {"a", "b"}) == ["b", "y"]
    assert best_of_each_side([], {"a", "b"}) == []


def test_records_are_read_as_written(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    written = record("swav", 0.5, 1.0) | {"curve": [[0.1, 1, 64, 2.5]], "scores": []}
    assert records.read("swav", 0.5, 0) is None
    records.write(written)
    assert records.read("swav", 0.5, 0) == written
    assert records.all() == [written]


def test_changes_of_the_command_line() -> None:
    changed = with_changes(["swav.options.lr=0.2", "lightly_swav.batch=64"])
    assert changed["swav"].settings["options"]["lr"] == 0.2
    assert changed["lightly_swav"].settings["batch"] == 64
    assert ENTRANTS["lightly_swav"].settings["batch"] == 128
    with pytest.raises(SystemExit, match="has no batches"):
        with_changes(["lightly_swav.batches=64"])


def test_curves_keep_their_last_point() -> None:
    points = [[float(i)] for i in range(1_234)]
    assert thinned(points, 100)[-1] == points[-1]
    assert 90 <= len(thinned(points, 100)) <= 110


def test_epochs_fit_the_budget() -> None:
    from benchmarks.quality.entrants.ours import Speed, schedule

    speed = Speed(once_s=50, epoch_s=0, steps_per_s=4, steps_per_epoch=781, batch=64)
    assert speed.steps_in(50 + 781 / 4 * 3 + 0.1) == 3 * 781
    assert Speed(0, 50, 4, 781, 64).steps_in(2 * (50 + 781 / 4) + 51.1) == 2 * 781 + 4
    assert Speed(0, 50, 4, 781, 64).steps_in(2 * (50 + 781 / 4) + 30) == 2 * 781
    assert speed.steps_in(1) == 1
    assert schedule(6 * 781 + 100, 781) == (6, 6 * 781)
    assert schedule(6 * 781 + 400, 781) == (7, 6 * 781 + 400)
    assert schedule(5, 781) == (1, 5)
