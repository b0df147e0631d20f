"""A benchmark program: exit codes, what a run leaves, resume, lock, compare, bad input in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from steady_runs import BadInput, FolderLock, Interrupted, TrainingFailed
from steady_runs.benchmark import (
    App,
    BenchmarkSettings,
    Job,
    Outcome,
    Protocol,
    python,
    read_weights,
    run_app,
    tables,
    version,
)


class Coco(BenchmarkSettings):
    """detector"""

    command: Literal["coco"] = "coco"
    model: Literal["fpn", "c4"] = "fpn"
    """kind of detector"""


def app(run=None, doctor=lambda: [("python", python)]) -> App:  # type: ignore[no-untyped-def]
    def check(data: Path) -> list[str]:
        if not data.is_dir():
            raise BadInput(f"--data {data}: not there")
        return [f"{len(list(data.iterdir()))} files"]

    def shrink(options: Coco) -> Coco:
        return options.model_copy(update={"iterations": options.iterations or 5})

    protocol = Protocol("coco", "COCO, demo", ("box AP", "mask AP"), Coco, check, run or outcome, shrink)
    return App("demo", "A benchmark.", "examples", (protocol,), doctor)


def outcome(job: Job[Coco]) -> Outcome:
    for step in range(1, 4):
        job.folder.append_metrics({"step": step, "loss": 1 / step, "lr": 0.1})
    picture = Image.new("RGB", (8, 8), "red")
    facts = {"weights": "<b>none</b>", "data": "none", "changes": ["batch 4 instead of 16"]}
    metrics = {"box AP": 12.345, "mask AP": 10.0}
    return Outcome(metrics, {"box AP": 0.0, "mask AP": 0.0}, facts, [("a & b", picture)], {"cat": 1.0})


def test_a_run_leaves_results_report_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run_app(app(), ["coco", "--out", str(out)]) == 0
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
    assert run_app(app(), ["coco"]) == run_app(app(), ["coco", "--quiet"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["demo-coco-1", "demo-coco-2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["coco", "--batch", "0"], "--batch should be greater than 0"),
        (["coco", "--scale", "9"], "--scale should be less than or equal to 4"),
        (["coco", "--lr-role", "none"], "did you mean '--lr-rule'?"),
        (["cocoa"], "did you mean 'coco'?"),
        (["resume", "nowhere"], "not a run"),
        (["resume"], "needs the run folder"),
        (["resume", "nowhere", "--gpu", "2"], "did you mean '--gpus'?"),
        (["compare"], "needs the folders of finished runs"),
        (["doctor", "--all"], "unknown option '--all'"),
        (["compare", "nowhere"], "no results"),
        (["coco", "--data", "nowhere", "--check-data"], "not there"),
        (["coco", "--check-data"], "drawn"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_app(app(), arguments) == 2
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
    def run(job: Job[Coco]) -> Outcome:
        raise error

    assert run_app(app(run), ["coco", "--out", str(tmp_path / "run")]) == code
    assert str(error) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_resume_gives_the_run_its_options_and_its_folder(tmp_path: Path) -> None:
    seen = []

    def run(job: Job[Coco]) -> Outcome:
        seen.append((job.resumed, job.options.batch, job.folder.path))
        job.folder.append_metrics({"step": 1, "loss": 1.0, "lr": 0.1})
        if not job.resumed:
            raise Interrupted("stopped")
        return outcome(job)

    out = tmp_path / "run"
    assert run_app(app(run), ["coco", "--batch", "3", "--out", str(out)]) == 130
    assert run_app(app(run), ["resume", str(out)]) == 0
    assert seen == [(False, 3, out), (True, 3, out)]
    assert run_app(app(run), ["resume", str(out)]) == 2  # finished


# As transfer-runs wrote it, the package before this one: the options, then what was chosen as weights
OLD_SETTINGS = {
    "command": "coco",
    "weights": "/runs/swav-1/backbone.safetensors",
    "random_init": False,
    "data": "shapes",
    "check_data": False,
    "iterations": 6,
    "batch": 2,
    "lr_rule": "linear",
    "scale": 0.05,
    "seed": 4,
    "gpus": 8,
    "device": "cpu",
    "workers": None,
    "out": "run",
    "checkpoint_every": None,
    "score_untrained": False,
    "quiet": True,
    "model": "c4",
    "architecture": {"arch": "resnet18", "width": 0.25},
    "weights_are": "resnet18 from a file",
}


def test_a_folder_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    def run(job: Job[Coco]) -> Outcome:
        assert job.resumed
        assert (job.options.batch, job.options.model, job.options.scale, job.options.gpus) == (2, "c4", 0.05, 1)
        weights = read_weights(job, lambda path: (None, None), lambda **given: given, lambda network: network)
        assert weights.backbone == {"arch": "resnet18", "width": 0.25, "seed": 4}
        assert (weights.file, weights.what) == (None, "resnet18 from a file")
        assert weights.source == "/runs/swav-1/backbone.safetensors"
        return outcome(job)

    text = json.dumps(OLD_SETTINGS, indent=2) + "\n"
    (tmp_path / "settings.json").write_text(text)
    assert run_app(app(run), ["resume", str(tmp_path)]) == 0
    assert (tmp_path / "settings.json").read_text() == text
    options = json.loads((tmp_path / "results.json").read_text())["options"]
    left_out = {"gpus", "workers", "out", "check_data", "checkpoint_every", "quiet"}
    assert options == {name: value for name, value in OLD_SETTINGS.items() if name not in left_out}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": "voc"}, "no run of demo (command 'voc')"),
        ({"batch": 0}, "batch should be greater than 0"),
        ({"lr_role": "none"}, "unknown key 'lr_role', did you mean 'lr_rule'?"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    change: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(OLD_SETTINGS | change))
    assert run_app(app(), ["resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'settings.json'}: {said}" in error
    assert error.count("\n") == 1


def test_only_drawn_images_make_the_settings_small(tmp_path: Path) -> None:
    seen = []

    def run(job: Job[Coco]) -> Outcome:
        seen.append((job.options.iterations, job.folder.read_settings()["iterations"]))
        return outcome(job)

    more = ([], ["--iterations", "9"], ["--data", "folder"])
    assert [run_app(app(run), ["coco", "--out", str(tmp_path / str(i)), *more[i]]) for i in range(3)] == [0, 0, 0]
    assert seen == [(5, 5), (9, 9), (None, None)]


def test_a_second_process_is_kept_out_of_the_folder(
    tmp_path: Path, start_child: Callable[[Callable[[], int | None]], int], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def run(job: Job[Coco]) -> Outcome:
        job.folder.append_metrics({"step": 1})
        codes = [run_app(app(), arguments) for arguments in (["resume", str(out)], ["coco", "--out", str(out)])]
        child = start_child(lambda: run_app(app(), ["resume", str(out)]))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert codes == [2, 2, 2]
        return outcome(job)

    assert run_app(app(run), ["coco", "--out", str(out), "--quiet"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == lines[2]
    assert f"process {os.getpid()} on" in lines[0]
    assert not (out / ".lock").exists()
    with FolderLock(out):
        assert run_app(app(), ["coco", "--out", str(out)]) == 2
    assert (out / "results.json").exists()


def test_a_second_run_does_not_take_the_folder_of_a_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["coco", "--out", str(tmp_path / "run")]
    assert [run_app(app(), out), run_app(app(), out)] == [0, 2]
    assert "another --out" in capsys.readouterr().err


def test_signals_are_noted_once_there_is_something_to_save(tmp_path: Path) -> None:
    def run(job: Job[Coco]) -> Outcome:
        job.stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert job.stop.asked
        return outcome(job)

    assert run_app(app(run), ["coco", "--out", str(tmp_path / "run")]) == 0

    def early(job: Job[Coco]) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal must stop this run")

    assert run_app(app(early), ["coco", "--out", str(tmp_path / "other")]) == 130


def test_a_second_signal_stops_at_once_but_an_echo_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun and `uv run` pass on what a scheduler has given to every process of a job already."""
    now = 100.0
    monkeypatch.setattr("steady_runs.stop.time.monotonic", lambda: now)
    reached = []

    def run(job: Job[Coco]) -> Outcome:
        nonlocal now
        job.stop.defer()
        for later in (0.0, 2.9, 0.2):  # 3.1 seconds after the first
            now += later
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append(now)
        return outcome(job)

    assert run_app(app(run), ["coco", "--out", str(tmp_path / "run")]) == 130
    assert reached == [100.0, 102.9]


def test_compare_puts_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        run_app(app(), ["coco", "--out", str(tmp_path / name), "--quiet"])
    capsys.readouterr()
    assert run_app(app(), ["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "COCO, demo (%)",
        "             box AP  mask AP",
        "a untrained    0.00     0.00",
        "a             12.35    10.00",
        "b untrained    0.00     0.00",
        "b             12.35    10.00",
    ]
    (tmp_path / "c").mkdir()
    (tmp_path / "a").rename(tmp_path / "c" / "b")
    assert run_app(app(), ["compare", str(tmp_path / "b"), str(tmp_path / "c" / "b" / "results.json")]) == 0
    assert run_app(app(), ["compare", str(tmp_path / "b"), str(tmp_path / "c" / "b")]) == 0
    assert f"\n{tmp_path / 'c' / 'b'}" in capsys.readouterr().out  # the whole path, as the names are the same


def test_names_are_never_broken() -> None:
    columns = ["box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75"]
    results = {"title": "COCO", "columns": columns, "metrics": dict.fromkeys(columns, 12.3), "untrained": None}
    name = "mask_rcnn_of_swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96"
    [table] = tables(
        [(name, results | {"untrained": {"box AP": 0.0}}), ("short", results | {"metrics": {"box AP": 1.0}})], 80
    )
    assert table.splitlines() == [
        "COCO (%)",
        "  box AP  box AP50  box AP75  mask AP  mask AP50  mask AP75",
        f"{name} untrained",
        "    0.00",
        name,
        "   12.30     12.30     12.30    12.30      12.30      12.30",
        "short",
        "    1.00",
    ]
    [table, other] = tables([("short", results), ("other", results | {"title": "VOC"})], 80)
    assert len(table.splitlines()) == len(other.splitlines()) == 3
    assert table.splitlines()[2].startswith("short   12.30")


@pytest.mark.parametrize("command", ["coco", "resume", "compare", "doctor"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = run_app(app(), [command, "--help"])
    except SystemExit as end:  # argparse prints the help of commands with options
        code = end.code
    assert code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: demo {command}")
    assert ("--model {fpn,c4}" in said) == (command == "coco")
    assert ("--gpus N" in said) == (command in ("coco", "resume"))


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app(), []) == 2
    said = capsys.readouterr().out
    for name in ("coco [options]", "resume RUN [options]", "compare RUN ...", "doctor", "COCO, demo", "examples"):
        assert name in said


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, steady_runs.benchmark; print(*{'torch', 'matplotlib', 'numpy', 'PIL', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_doctor_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app(), ["doctor"]) == 0
    checks = [("python", python), ("nothing", version("no-such-thing")), ("torch", version("torch", "0.1"))]
    assert run_app(app(doctor=lambda: checks), ["doctor"]) == 2
    said = capsys.readouterr().out
    assert "not installed" in said
    assert "tested with 0.1" in said


def test_workers_that_inherit_the_handler_die_of_a_signal(tmp_path: Path) -> None:
    """A pool of the toolbox's evaluator terminates its workers by SIGTERM; noted instead, it would wait for ever."""

    def run(job: Job[Coco]) -> Outcome:
        job.stop.defer()
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        return outcome(job)

    assert run_app(app(run), ["coco", "--out", str(tmp_path / "run")]) == 0
