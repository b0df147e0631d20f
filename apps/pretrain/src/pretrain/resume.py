"""The folder of a run: a new one, or one whose last checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steady_runs import FolderLock, Progress
from steady_runs.checkpoint import Checkpoints

from pretrain.run_folder import PretrainFolder
from pretrain.state import State


@contextmanager
def begin_or_resume(state: State, screen: Progress, resume: PretrainFolder | None) -> Iterator[PretrainFolder]:
    """Make a run folder, or load the checkpoint of `resume` into `state`; hold the folder's lock meanwhile. Collective.

    A command that torchrun or Slurm has restarted goes on in the folder that it made before.

    Raises:
        BadInput: If the folder cannot be used, or another process uses it.
    """
    settings, machine = state.settings, state.run.machine
    resume = resume or PretrainFolder.of_restart(settings)
    if not machine.is_main:
        if resume is not None:
            machine.fabric.barrier()  # until the first rank has put a damaged checkpoint aside
            _load(state, Checkpoints(resume.path).load()[0])
        yield resume or PretrainFolder.nowhere()
        return
    folder = resume or PretrainFolder.create(settings.out, settings.method)
    with FolderLock(folder.path) as lock:
        if lock.warning:
            screen.say(lock.warning)
        if resume is None:
            folder.write_config(settings)
        else:
            saved, warning = Checkpoints(folder.path).load()
            if warning:
                screen.say(warning)
            machine.fabric.barrier()
            _load(state, saved)
            bring_up_to_date(folder, state, step=-1 if saved is None else state.step)
        yield folder


def bring_up_to_date(folder: PretrainFolder, state: State, step: int) -> None:
    """Drop the lines of metrics.jsonl after a checkpoint of `step`, and write down the mends that it holds.

    A kill at any moment is harmless: the checkpoint is the truth, and this is done again when the run is resumed."""
    mended = [mend["line"] for mend in state.mends]
    folder.keep_metrics(lambda line: line in mended if "mended" in line else _is_before(line, step))
    if mended:
        folder.write_mends(state.mends)


def _load(state: State, saved: dict[str, Any] | None) -> None:
    if saved is not None:
        state.load_state_dict(saved)


def _is_before(line: dict[str, Any], step: int) -> bool:
    """Whether a line of metrics.jsonl was written before the checkpoint of `step`.

    The lines of the step itself are kept, but for a score: it is taken again, except that of the random network."""
    is_repeated = "loss" not in line and step > 0
    return "final" not in line and (line["step"] < step or (line["step"] == step and not is_repeated))
