"""The training loop of every method."""

from __future__ import annotations

from collections.abc import Sequence

from steady_runs import Progress, StopSignal

from pretrain.assemble import assemble
from pretrain.collapse import Collapsed, CollapseWatch
from pretrain.finish import finish, print_result
from pretrain.images import Loaders, make_loaders, open_sets, prepare_score
from pretrain.journal import Journal
from pretrain.launch import launch
from pretrain.mend import mend
from pretrain.plan import make_plan
from pretrain.resume import begin_or_resume
from pretrain.rules import RecipeRates, follow
from pretrain.run import Run
from pretrain.run_folder import PretrainFolder
from pretrain.saver import Saver
from pretrain.score import KnnScore
from pretrain.settings import RunSettings
from pretrain.state import State
from pretrain.step import train_step


def train(
    settings: RunSettings,
    *,
    resume: PretrainFolder | None = None,
    remarks: Sequence[str] = (),
    rates: RecipeRates | None = None,
) -> None:
    """Train in a new run folder, or go on from the checkpoint in the folder `resume`.

    Args:
        settings: Of the run.
        resume: The folder of a run to go on with.
        remarks: Lines for the header.
        rates: Learning rates that come from a recipe, to be scaled if the batch is another than the recipe's.

    Raises:
        BadInput: If the settings do not fit the machine or the images.
        TrainingFailed: If the loss is not finite, or the run has collapsed and cannot be mended.
        Interrupted: If a signal stopped the run; a checkpoint is written then.
    """
    machine = launch(settings)
    screen = Progress(quiet=settings.quiet, main=machine.is_main)
    sets = open_sets(settings)
    settings, followed = follow(settings, len(sets.train), rates)
    plan = make_plan(settings, len(sets.train), machine.n_ranks)
    loaders = make_loaders(sets, settings, machine, screen.doing)
    trained = assemble(settings, plan.n_images, machine)
    method, backbone = trained.method, trained.method.backbone
    run = Run(machine, method, loaders.evaluation, loaders.train, plan, progress=screen.doing)
    watch = CollapseWatch(method, settings, plan.steps_per_epoch, machine.of_first)
    state = State(settings, plan, run, trained, watch)
    score = prepare_score(sets, loaders, settings)

    with (
        begin_or_resume(state, screen, resume) as folder,
        StopSignal() as signal,
        Journal(state, folder, screen) as journal,
        Saver(state, folder, signal) as saver,
    ):
        journal.header(sets, *remarks, *followed, loaders.remark)
        if state.is_new:
            if score is not None:
                journal.score(score.top1(run, backbone), epoch=0)
            with state.clock.section("method"):
                method.start(run)
            saver.save(keep=True)
        saver.begin()
        journal.restart_rate()
        while not state.is_done:
            try:
                train_epochs(state, loaders, score, journal, saver)
            except Collapsed as collapse:
                mend(state, folder, saver, journal, collapse)
        saver.finish()
        if score is not None:
            journal.knn = score.top1(run, backbone)
        finish(state, folder, journal, sets)
    print_result(state, folder, journal, sets)


def train_epochs(state: State, loaders: Loaders, score: KnnScore | None, journal: Journal, saver: Saver) -> None:
    """Train to the last step. Raises Collapsed if the run is to be mended first."""
    run, trained = state.run, state.trained
    for epoch in state.epochs():
        if score is not None and state.is_epoch_start and is_score_due(epoch, state.settings.knn_every):
            journal.score(score.top1(run, trained.method.backbone), epoch=epoch - 1)
        journal.began_epoch(state.begin(epoch))
        for crops, indices in loaders.train.batches(epoch, state.batches(), state.clock):
            state.advance(train_step(run, state.settings, trained, crops, indices, state.clock))
            if state.is_log_step:
                journal.line()
            saver.after_step()


def is_score_due(epoch: int, every: int) -> bool:
    """Whether to score before the first step of `epoch`. The scores before and after training are taken anyway."""
    return epoch > 0 and every > 0 and epoch % every == 0
