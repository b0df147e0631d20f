"""run_program: every way to end has its exit code and its one line on stderr."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from steady_runs import (
    BadInput,
    Command,
    Interrupted,
    Program,
    TrainingFailed,
    WorkerLost,
    fail,
    from_worker,
    help_text,
    one_line,
    run_argument,
    run_program,
)


def program(run: Callable[[list[str]], int | None] = lambda arguments: None) -> Program:
    train = Command("train", "Train a network.", run)
    resume = Command("resume", "Go on with a run.", run, "RUN [options]")
    return Program("steady-runs", "A demo.", (train, resume), more="\nexamples:\n  demo train\n")


def raising(error: BaseException) -> Program:
    def run(arguments: list[str]) -> None:
        raise error

    return program(run)


def stderr_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.rstrip("\n")


def test_a_command_gets_its_arguments_and_gives_the_exit_code() -> None:
    seen: list[list[str]] = []
    assert run_program(program(seen.append), ["train", "--epochs", "3"]) == 0
    assert seen == [["--epochs", "3"]]
    assert run_program(program(lambda arguments: 2), ["resume", "x"]) == 2


def test_arguments_come_from_the_command_line_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("sys.argv", ["demo", "train", "x"])
    assert run_program(program(seen.append)) == 0
    assert seen == [["x"]]


def test_no_arguments_print_the_help_and_give_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(program(), []) == 2
    without = capsys.readouterr().out
    assert [run_program(program(), [word]) for word in ("--help", "-h", "help")] == [0, 0, 0]
    assert capsys.readouterr().out == 3 * without
    assert without == help_text(program()) + "\n"
    for part in ("usage: steady-runs COMMAND", "train [options]    ", "resume RUN [options]", "examples:"):
        assert part in without


def test_version_names_program_torch_and_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(program(), ["--version"]) == 0
    assert capsys.readouterr().out.startswith("steady-runs 0.")
    assert run_program(Program("no-such-thing", "", ()), ["--version"]) == 0
    assert "not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "unknown command 'trian', did you mean 'train'?; commands: train, resume"),
        (["zzz"], "unknown command 'zzz'; commands: train, resume"),
        (["--epochs", "3"], "'--epochs' before the command; the command comes first: train, resume"),
    ],
)
def test_an_unknown_command(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(program(), arguments) == 2
    assert stderr_line(capsys) == f"steady-runs: {said}"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadInput("--data x: not there"), 2, "--data x: not there"),
        (BadInput("two\nlines"), 2, "two\\nlines"),
        (TrainingFailed("the loss is nan"), 3, "the loss is nan"),
        (WorkerLost("killed"), 3, "killed"),
        (Interrupted("stopped at step 3"), 130, "stopped at step 3"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "cannot write: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), 3, "cannot be written any more"),
    ],
)
def test_an_error_has_its_code_and_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(raising(error), ["train"]) == code
    assert said in stderr_line(capsys)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    def run(arguments: list[str]) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    assert run_program(program(run), ["train"]) == 3
    assert "free space, then resume" in stderr_line(capsys)


def test_an_unknown_error_leaves_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_program(raising(ZeroDivisionError("division\nby zero")), ["train"]) == 1
    said = stderr_line(capsys)
    assert "ZeroDivisionError: division\\nby zero (test_steady_runs_command_line.py:" in said
    assert "please report it" in said
    [trace] = tmp_path.iterdir()
    assert str(trace) in said
    assert "Traceback" in trace.read_text()
    assert "ZeroDivisionError" in trace.read_text()


def test_a_trace_that_cannot_be_written_changes_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert run_program(raising(ZeroDivisionError("x")), ["train"]) == 1
    assert "no file could be written" in stderr_line(capsys)


@pytest.mark.parametrize("arguments", [["--traceback", "train", "a"], ["train", "a", "--traceback"]])
def test_traceback_lets_the_error_through(arguments: list[str]) -> None:
    seen: list[list[str]] = []

    def run(arguments: list[str]) -> None:
        seen.append(arguments)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_program(program(run), arguments)
    assert seen == [["a"]]
    assert run_program(raising(BadInput("x")), ["train", "--traceback"]) == 2  # of errors that nobody foresaw only


def test_a_gpu_without_memory_gives_3(capsys: pytest.CaptureFixture[str]) -> None:
    class OutOfMemoryError(RuntimeError):
        """Torch's has this name."""

    assert run_program(raising(OutOfMemoryError("CUDA out of memory")), ["train"]) == 3
    assert "smaller --batch" in stderr_line(capsys)


def test_a_lost_rank_ends_the_process_with_3(
    start_child: Callable[[Callable[[], int | None]], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch.distributed  # noqa: F401  # the check is made only where torch was imported

    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def work() -> int:
        os.dup2(os.open(tmp_path / "errors", os.O_CREAT | os.O_WRONLY), 2)
        monkeypatch.setattr("sys.stderr", os.fdopen(2, "w"))
        return run_program(raising(RuntimeError("Connection closed by peer [127.0.0.1]")), ["train"]) + 100

    child = start_child(work)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert "another process is gone" in (tmp_path / "errors").read_text()


def test_lines_of_several_ranks_say_whose_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert fail("demo", "x", 3) == 3
    assert stderr_line(capsys) == "demo: rank 1: x"


def test_long_and_unprintable_texts_fit_on_a_line() -> None:
    assert one_line("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert len(one_line("x" * 10_000)) < 1500


def test_run_argument() -> None:
    assert run_argument(["runs/a", "--gpus", "2"], "demo resume") == ("runs/a", ["--gpus", "2"])
    for arguments in ([], ["--gpus", "2"]):
        with pytest.raises(BadInput, match="demo resume runs/NAME-1"):
            run_argument(arguments, "demo resume")


def test_errors_of_worker_processes_lose_their_traceback() -> None:
    error = BadInput(
        "Caught BadInput in DataLoader worker process 0.\nTraceback: ...\nsteady_runs.errors.BadInput: no x\n"
    )
    assert str(from_worker(error)) == "no x"
