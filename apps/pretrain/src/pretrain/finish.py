"""The result of a run: the backbone, the report, the last lines on the terminal."""

from __future__ import annotations

from sobel_resnet import save_backbone
from steady_runs import duration, one_line

from pretrain.images import Sets
from pretrain.journal import Journal
from pretrain.report import write_report
from pretrain.run_folder import PretrainFolder
from pretrain.state import State


def finish(state: State, folder: PretrainFolder, journal: Journal, sets: Sets) -> None:
    """Write the backbone, the last line of metrics.jsonl, and the report. Collective."""
    settings, run, method = state.settings, state.run, state.trained.method
    metadata = {
        "method": settings.method,
        "data": settings.data,
        "step": str(state.step),
        "seed": str(settings.seed),
    }
    if run.machine.is_main:
        save_backbone(method.backbone, folder.backbone, metadata=metadata)
    shown = None
    if settings.report:  # after the backbone is saved: features of many images may not fit into memory
        shown = run.extract(method.backbone, what="features for the report"), method.assign(run)
    if run.machine.is_main:
        journal.final()
        if shown is not None:
            write_report(folder, settings, sets.train, *shown)


def print_result(state: State, folder: PretrainFolder, journal: Journal, sets: Sets) -> None:
    """Print scores, files, time, and what to do next."""
    settings, skipped = state.settings, sets.train.skipped
    if skipped:
        files = "1 damaged file was" if len(skipped) == 1 else f"{len(skipped)} damaged files were"
        journal.screen.say(f"{files} replaced by others; the first: {one_line(skipped[0].path)} ({skipped[0].reason})")
    lines = []
    if journal.knn is not None:
        change = f"{state.knn_random_init:.1f} % -> {journal.knn:.1f} %"
        lines.append(f"kNN top-1  {change}   (random network -> trained)")
    lines.append(f"backbone   {folder.backbone}")
    if settings.report:
        lines.append(f"report     {folder.report}   (open it in a browser)")
    lines += [
        f"took       {duration(state.wall_s)}: {state.clock.summary()}",
        "next       uv run apps/classify all   (every benchmark of this backbone)",
        f"           uv run apps/pretrain {settings.method} --data folder:PATH   (your own images, labels or not)",
    ]
    journal.screen.say("\n".join(lines), even_quiet=True)
