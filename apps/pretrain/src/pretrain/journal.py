"""What a run tells while it trains: metrics.jsonl, TensorBoard, the terminal. Other ranks than the first are silent."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from steady_runs import Progress, bar, duration

from pretrain.images import Sets
from pretrain.run_folder import PretrainFolder
from pretrain.schedule import lr_at
from pretrain.state import State
from pretrain.tensorboard_log import TensorBoardLog


class Journal:
    """A context in which a run writes its figures.

    Args:
        state: Of the run.
        folder: Where metrics.jsonl and TensorBoard's files go.
        screen: The terminal.
    """

    def __init__(self, state: State, folder: PretrainFolder, screen: Progress) -> None:
        self.state, self.folder, self.screen = state, folder, screen
        self.knn = state.knn_random_init  # the last score, in percent
        self._is_main = state.run.machine.is_main
        self._tensorboard: TensorBoardLog | None = None
        self.restart_rate()
        self._clustering_s = 0.0  # of the last epoch

    def __enter__(self) -> Journal:
        if self._is_main:
            self._tensorboard = TensorBoardLog(self.folder.path / "tensorboard", self.state.step)
        self.screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.__exit__(kind, error, trace)
        if self._tensorboard is not None:
            self._tensorboard.close()

    def header(self, sets: Sets, *remarks: str | None) -> None:
        """Print what runs on what, with remarks on settings and images; the method may add its own."""
        state = self.state
        settings, plan, machine = state.settings, state.plan, state.run.machine
        self.screen.say(
            f"{settings.method} on {settings.data}: {state.trained.method.k} clusters, "
            f"{settings.epochs} epochs of {plan.steps_per_epoch} steps, batch {plan.batch}, {settings.arch} on "
            f"{machine.n_ranks} x {machine.device.type} ({machine.precision}); run folder {self.folder.path}"
        )
        for line in (sets.summary, *sets.remarks, *remarks, state.trained.method.remark):
            if line:
                self.screen.say(line)

    def score(self, knn: float, epoch: int) -> None:
        """Write a kNN score, in percent, after epoch `epoch`. The first one is that of the random network."""
        self.knn = knn
        if self.state.is_new and self.state.step == 0:
            self.state.knn_random_init = knn
            self.screen.say(f"kNN top-1 of the random network: {knn:.1f} %")
        self._write({"step": self.state.step, "epoch": epoch, "knn_top1": knn})
        self.restart_rate()

    def began_epoch(self, clustering_s: float) -> None:
        """Take the seconds of a clustering out of the training rate, and into the time left."""
        if clustering_s:
            self._clustering_s = clustering_s
            self._rate_since += clustering_s

    def line(self) -> None:
        """Write a line on the steps since the last one. Waits for a GPU once.

        Raises:
            TrainingFailed: If the loss or a gradient is not finite, or if the run has collapsed and is to stop.
            Collapsed: If the run has collapsed and is to be mended.
        """
        state, plan = self.state, self.state.plan
        measured = state.watch.measure(state.losses)
        now = time.monotonic()
        steps_per_s = (state.step - self._rate_from) / max(now - self._rate_since, 1e-9)
        figures = {
            "step": state.step,
            "epoch": state.epoch,
            "loss": measured.pop("loss"),
            "lr": lr_at(state.step - 1, plan.steps_per_epoch, state.settings),
            **measured,
            "images_per_s": steps_per_s * plan.batch,
            **state.clock.figures(),
        }
        state.watch.refuse_what_is_not_finite(figures)
        self._write(figures)
        if warning := state.watch.look(figures):
            self.screen.say(warning)
        left_s = (plan.last_step - state.step) / steps_per_s + self._clustering_s * (plan.last_epoch - state.epoch)
        self.screen.show(_on_screen(figures, state, left_s, self.knn))
        state.losses = []
        self.restart_rate()

    def went_back(self) -> None:
        """The run has gone back to an earlier step."""
        self.knn = self.state.knn_random_init
        if self._tensorboard is not None:
            self._tensorboard.go_back(self.state.step)
        self.restart_rate()

    def final(self) -> None:
        """Write the last line: the final score and where the time went."""
        state = self.state
        final: dict[str, Any] = {"step": state.step, "epoch": state.epoch, "final": True}
        if self.knn is not None:
            final |= {"knn_top1": self.knn, "knn_top1_random_init": state.knn_random_init}
        state.clock.figures()
        final |= {f"time_{name}": seconds for name, seconds in state.clock.total.items()}
        self._write(final | {"wall_s": state.wall_s})

    def _write(self, figures: dict[str, Any]) -> None:
        if self._tensorboard is not None:
            self.folder.append_metrics(figures)
            plotted = {name: value for name, value in figures.items() if name not in ("step", "epoch", "final")}
            self._tensorboard.add(plotted, figures["step"])

    def restart_rate(self) -> None:
        """Measure images per second from now on: what came before was not training."""
        self._rate_since, self._rate_from = time.monotonic(), self.state.step


def _on_screen(figures: dict[str, Any], state: State, left_s: float, knn: float | None) -> str:
    done = state.step / state.plan.last_step
    parts = [
        f"epoch {figures['epoch'] + 1}/{state.settings.epochs} {bar(done)}",
        f"{figures['images_per_s']:.0f} img/s",
        f"{duration(left_s)} left",
        f"loss {figures['loss']:.3f}",
    ]
    if "change" in figures:
        parts.append(f"changed {figures['change']:.0%}")
    if "smallest" in figures:
        sizes = f"{figures['smallest']:.0f}-{figures['largest']:.0f} images"
        parts.append(f"clusters {sizes}, {figures['effective_clusters']:.0f} effective")
    if knn is not None:
        parts.append(f"kNN {knn:.1f} %")
    return " | ".join(parts)
