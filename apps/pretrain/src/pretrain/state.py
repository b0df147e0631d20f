"""Where a run stands: all that a checkpoint holds, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from steady_runs import BadInput, checked
from steady_runs.keys import permutation
from torch import Tensor

from pretrain.assemble import Trained, renew_group_options
from pretrain.clock import Clock
from pretrain.collapse import CollapseWatch
from pretrain.plan import Plan
from pretrain.run import Run
from pretrain.settings import RunSettings


class State:
    """The state of a run, from which it goes on after any stop.

    Attributes:
        settings: Of the run, as the mends of collapses have changed them.
        mends: The mends of collapses so far: `line`, in metrics.jsonl, and `change`, the settings that it set.
        is_new: Whether nothing was loaded from a checkpoint.
        order: Images of the current epoch, in order; None before the first epoch.
        order_epoch: The epoch that `order` is of.
        losses: Losses since the last line of metrics.jsonl, scalars on the device.
        knn_random_init: kNN score before training, in percent, or None.
        clock: Where the time went.
        watch: Signs of collapse so far.
    """

    def __init__(self, settings: RunSettings, plan: Plan, run: Run, trained: Trained, watch: CollapseWatch) -> None:
        self.settings, self.plan, self.run, self.trained, self.watch = settings, plan, run, trained, watch
        self.mends: list[dict[str, Any]] = []
        self.is_new = True
        self.order: Tensor | None = None
        self.order_epoch: int | None = None
        self.losses: list[Tensor] = []
        self.knn_random_init: float | None = None
        self.clock = Clock(run.machine.device)
        self._began, self._wall_s_before = time.monotonic(), 0.0

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self.run.step

    @property
    def epoch(self) -> int:
        """The 0-based epoch of the last step that was done."""
        return (self.step - 1) // self.plan.steps_per_epoch

    @property
    def is_done(self) -> bool:
        return self.step >= self.plan.last_step

    @property
    def is_epoch_start(self) -> bool:
        """Whether no step of the current epoch is done."""
        return self.step % self.plan.steps_per_epoch == 0

    @property
    def is_log_step(self) -> bool:
        """Whether the last step gets a line in metrics.jsonl."""
        return self.step % self.settings.log_every == 0 or self.is_done

    @property
    def wall_s(self) -> float:
        """Seconds of this run, over all its parts."""
        return self._wall_s_before + time.monotonic() - self._began

    def epochs(self) -> Iterator[int]:
        """The epochs that are not finished."""
        for epoch in range(self.step // self.plan.steps_per_epoch, self.settings.epochs):
            if self.is_done:
                return
            yield epoch

    def begin(self, epoch: int) -> float:
        """Set the order of the epoch's images; it may be there from a checkpoint. Returns the method's seconds."""
        if self.order_epoch == epoch and self.order is not None:
            return 0.0
        began = time.monotonic()
        with self.clock.section("method"):
            order = self.trained.method.begin_epoch(self.run, epoch)
        took_s = time.monotonic() - began
        if order is None:
            order = permutation(self.plan.n_images, self.settings.seed, "order", epoch)
            order = _whole_batches(order, self.plan.steps_per_epoch * self.plan.batch)
        self.order, self.order_epoch = order, epoch
        return took_s

    def batches(self) -> list[Tensor]:
        """This rank's indices (B,) of each step that is left of the current epoch."""
        assert self.order is not None
        assert self.order_epoch is not None
        first = self.order_epoch * self.plan.steps_per_epoch
        left = self.order.split(self.plan.batch)[self.step - first : self.plan.last_step - first]
        return [self.run.own_part(batch) for batch in left]

    def advance(self, loss: Tensor) -> None:
        """Count a step that is done."""
        self.run.step += 1
        self.losses.append(loss)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds. Collective, as a method's memory may be spread over the ranks."""
        return {
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
            "method": self.trained.method.state_dict(),
            "optimizer": self.trained.optimizer.state_dict(),
            "watch": self.watch.state_dict(),
            "mends": [dict(mend) for mend in self.mends],
            "step": self.step,
            "n_images": self.plan.n_images,
            "order": self.order,
            "begun": self.order_epoch,
            "losses": torch.stack(self.losses) if self.losses else [],
            "clock": self.clock.total,
            "knn_top1_random_init": self.knn_random_init,
            "wall_s": self.wall_s,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint. Raises BadInput if the data set has another number of images now."""
        n_images = self.plan.n_images
        if saved.get("n_images", n_images) != n_images:
            raise BadInput(
                f"--data {self.settings.data}: {n_images:,} images, and {saved['n_images']:,} when the run began; "
                f"memories go by the number of an image, so put them back, or start a new run"
            )
        self._load_training(saved)
        self.knn_random_init = saved.get("knn_top1_random_init")
        self.clock = Clock(self.run.machine.device, saved.get("clock"))
        self._wall_s_before = saved.get("wall_s", 0.0)
        for mend in saved.get("mends", []):
            self._add(mend)

    def go_back(self, saved: dict[str, Any], mend: dict[str, Any]) -> None:
        """Go back to an earlier checkpoint of this run, and on from there with the settings that `mend` changes.

        The mends so far stay, and so do the clocks: the time was spent."""
        self._load_training(saved)
        for earlier in self.mends:
            self._apply(earlier["change"])
        self._add(mend)

    def _load_training(self, saved: dict[str, Any]) -> None:
        """Load what a step changes."""
        self.is_new = False
        self.trained.method.load_state_dict(saved["method"])
        self.trained.optimizer.load_state_dict(saved["optimizer"])
        self.watch.load_state_dict(saved["watch"])
        self.run.step = saved["step"]
        self.order, self.order_epoch = saved.get("order"), saved.get("begun")
        device = self.run.machine.device
        # a list of numbers in checkpoints of versions before 0.2
        self.losses = [loss.to(device) for loss in torch.as_tensor(saved.get("losses", []))]

    def _add(self, mend: dict[str, Any]) -> None:
        self.mends.append(mend)
        self._apply(mend["change"])

    def _apply(self, change: Mapping[str, Any]) -> None:
        """Change settings of the run. Everything that holds settings gets the new ones."""
        self.settings = checked(type(self.settings), {**self.settings.model_dump(exclude_none=True), **change})
        self.watch.settings = self.trained.method.settings = self.settings
        renew_group_options(self.trained)  # the optimiser has loaded those of the checkpoint


def _whole_batches(order: Tensor, length: int) -> Tensor:
    """Cut the order to `length`, or fill it up from its own start, so that every batch is full."""
    return torch.cat([order, order[: max(0, length - len(order))]])[:length]
