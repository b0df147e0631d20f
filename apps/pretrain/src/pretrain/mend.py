"""Mend a run that has collapsed: back to the last healthy checkpoint, and on with other settings.

    1. load the checkpoint that was kept while no sign of collapse was on (`saver.py`)
    2. apply the likeliest remedy that has not been tried
    3. save: from now on the mend is part of the state, and a resumed run has it
    4. config.toml and metrics.jsonl

All that leads to a mend is in the checkpoints. So a run that is killed before 3 collapses again and is mended alike,
and one that is killed after 3 does 4 when it is resumed.
"""

from __future__ import annotations

from typing import Any

import torch
from steady_runs import TrainingFailed
from steady_runs.checkpoint import Checkpoints

from pretrain.collapse import Collapsed
from pretrain.journal import Journal
from pretrain.launch import Machine
from pretrain.resume import bring_up_to_date
from pretrain.run_folder import PretrainFolder
from pretrain.saver import Saver
from pretrain.state import State

AT_MOST = 3  # mends of a run


def mend(state: State, folder: PretrainFolder, saver: Saver, journal: Journal, collapse: Collapsed) -> None:
    """Go back and apply a remedy. Collective.

    Raises:
        TrainingFailed: If the run has been mended three times, or has no healthy checkpoint that can be read.
    """
    n = len(state.mends)
    if n >= AT_MOST:
        tried = ", ".join(each["line"]["mended"] for each in state.mends)
        raise TrainingFailed(
            f"{collapse} after {n} mends ({tried}); try {state.watch.advice(state.step)}. "
            f"--on-collapse warn goes on all the same"
        ) from None
    saver.checkpoints.wait()
    saved = _healthy(folder, state.run.machine)
    if saved is None:
        raise TrainingFailed(
            f"{collapse}, and there is no healthy checkpoint to go back to; try {state.watch.advice(state.step)}. "
            f"--on-collapse warn goes on all the same"
        ) from None
    remedies = state.trained.method.remedies(saved["step"], state.plan.steps_per_epoch)
    before = state.settings.model_dump()
    applicable = [remedy for remedy in remedies if remedy.change]
    in_turn = applicable[n % len(applicable) :] + applicable[: n % len(applicable)]
    remedy = next(each for each in in_turn if any(before[name] != to for name, to in each.change.items()))
    line = {
        "step": saved["step"],
        "mended": ", ".join(f"{name} {_text(before[name])} -> {_text(to)}" for name, to in remedy.change.items()),
        "collapsed_step": collapse.step,
        "sign": collapse.what,
    }
    state.go_back(saved, {"line": line, "change": dict(remedy.change)})
    saver.save()
    saver.checkpoints.wait()
    if state.run.machine.is_main:
        bring_up_to_date(folder, state, state.step)
    journal.went_back()
    journal.screen.say(
        f"step {collapse.step}: collapsed ({collapse.message}); back to step {state.step} with {remedy.options} "
        f"(mend {n + 1} of {AT_MOST})"
    )


def _healthy(folder: PretrainFolder, machine: Machine) -> dict[str, Any] | None:
    """The checkpoint to go back to; None on all ranks if one of them cannot read it."""
    path = machine.fabric.broadcast(folder.path)  # the others do not know the folder of a run that is new
    saved = Checkpoints(path).load_kept()
    found = torch.tensor(float(saved is not None), device=machine.device)
    return saved if machine.mean(found) == 1 else None


def _text(value: Any) -> str:
    return "not given" if value is None else str(value)
