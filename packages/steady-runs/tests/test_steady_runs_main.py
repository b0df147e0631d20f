"""The command line: exit codes, what a run leaves, resume, bad input in one line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image
from steady_runs import App, BadInput, Interrupted, Job, Outcome, Protocol, TrainingFailed, main, python, version


def app(run=None, doctor=lambda: [("python", python)]) -> App:  # type: ignore[no-untyped-def]
    def check(data: Path) -> list[str]:
        if not data.is_dir():
            raise BadInput(f"--data {data}: not there")
        return [f"{len(list(data.iterdir()))} files"]

    protocol = Protocol("coco", "COCO, demo", ("box AP", "mask AP"), check, run or outcome)
    return App("demo", "A benchmark.", "examples", (protocol,), doctor)


def outcome(job: Job) -> Outcome:
    for step in range(1, 4):
        job.folder.append_metrics({"step": step, "loss": 1 / step, "lr": 0.1})
    picture = Image.new("RGB", (8, 8), "red")
    facts = {"weights": "<b>none</b>", "data": "none", "changes": ["batch 4 instead of 16"]}
    metrics = {"box AP": 12.345, "mask AP": 10.0}
    return Outcome(metrics, {"box AP": 0.0, "mask AP": 0.0}, facts, [("a & b", picture)], {"cat": 1.0})


def test_a_run_leaves_results_report_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(app(), ["coco", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["metrics"] == {"box AP": 12.345, "mask AP": 10.0}
    assert results["changes"] == ["batch 4 instead of 16"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [1, 2, 3, None]
    assert lines[-1]["final"] is True
    page = (out / "report.html").read_text()
    assert "12.35" in page or "12.34" in page
    assert "&lt;b&gt;none" in page
    assert "<b>none" not in page
    assert "a &amp; b" in page
    said = capsys.readouterr().out
    assert "COCO, demo" in said
    assert "12.3" in said
    assert not list(out.glob("*.part"))


def test_runs_get_the_next_free_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(app(), ["coco"]) == main(app(), ["coco", "--quiet"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["demo-coco-1", "demo-coco-2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["coco", "--batch", "0"], "positive integer"),
        (["coco", "--scale", "9"], "0.05 to 4"),
        (["coco", "--lr-role", "none"], "--lr-role"),
        (["cocoa"], "cocoa"),
        (["resume", "nowhere"], "not a run"),
        (["compare", "nowhere"], "no results"),
        (["coco", "--data", "nowhere", "--check-data"], "not there"),
        (["coco", "--check-data"], "drawn"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(app(), arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code"), [(BadInput("no mask"), 2), (TrainingFailed("loss is nan"), 3), (Interrupted("stopped"), 130)]
)
def test_each_end_has_its_code_and_a_new_folder_does_not_stay(
    error: BaseException, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: Job) -> Outcome:
        raise error

    assert main(app(run), ["coco", "--out", str(tmp_path / "run")]) == code
    assert str(error) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_resume_gives_the_run_its_options_and_its_folder(tmp_path: Path) -> None:
    seen = []

    def run(job: Job) -> Outcome:
        seen.append((job.resumed, job.options.batch, job.folder.path))
        job.folder.append_metrics({"step": 1, "loss": 1.0, "lr": 0.1})
        if not job.resumed:
            raise Interrupted("stopped")
        return outcome(job)

    out = tmp_path / "run"
    assert main(app(run), ["coco", "--batch", "3", "--out", str(out)]) == 130
    assert main(app(run), ["resume", str(out)]) == 0
    assert seen == [(False, 3, out), (True, 3, out)]
    assert main(app(run), ["resume", str(out)]) == 2  # finished


def test_a_second_run_does_not_take_the_folder_of_a_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["coco", "--out", str(tmp_path / "run")]
    assert [main(app(), out), main(app(), out)] == [0, 2]
    assert "another --out" in capsys.readouterr().err


def test_signals_are_noted_once_there_is_something_to_save(tmp_path: Path) -> None:
    def run(job: Job) -> Outcome:
        job.stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert job.stop.asked
        return outcome(job)

    assert main(app(run), ["coco", "--out", str(tmp_path / "run")]) == 0

    def early(job: Job) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal must stop this run")

    assert main(app(early), ["coco", "--out", str(tmp_path / "other")]) == 130


def test_a_second_signal_stops_at_once_but_an_echo_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun and `uv run` pass on what a scheduler has given to every process of a job already."""
    now = 100.0
    monkeypatch.setattr("steady_runs._stop.time.monotonic", lambda: now)
    reached = []

    def run(job: Job) -> Outcome:
        nonlocal now
        job.stop.defer()
        for later in (0.0, 2.9, 0.2):  # 3.1 seconds after the first
            now += later
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append(now)
        return outcome(job)

    assert main(app(run), ["coco", "--out", str(tmp_path / "run")]) == 130
    assert reached == [100.0, 102.9]


def test_compare_puts_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        main(app(), ["coco", "--out", str(tmp_path / name), "--quiet"])
    capsys.readouterr()
    assert main(app(), ["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert said.count("COCO, demo") == 1
    assert "a untrained" in said


def test_doctor_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(app(), ["doctor"]) == 0
    checks = [("python", python), ("nothing", version("no-such-thing")), ("torch", version("torch", "0.1"))]
    assert main(app(doctor=lambda: checks), ["doctor"]) == 2
    said = capsys.readouterr().out
    assert "not installed" in said
    assert "made with 0.1" in said


def test_workers_that_inherit_the_handler_die_of_a_signal(tmp_path: Path) -> None:
    """A pool of the toolbox's evaluator terminates its workers by SIGTERM; noted instead, it would wait for ever."""

    def run(job: Job) -> Outcome:
        job.stop.defer()
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        return outcome(job)

    assert main(app(run), ["coco", "--out", str(tmp_path / "run")]) == 0
