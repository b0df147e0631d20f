"""Detect collapse without labels, from the figures of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from eval_probes import rankme
from steady_runs import TrainingFailed
from torch import Tensor

from pretrain.fetch import to_host
from pretrain.method import Method
from pretrain.settings import RunSettings

ROWS = 512  # embeddings whose effective rank is computed
NOTICED = 100  # steps from the beginning of a collapse within which it is noticed
PATIENCE_EPOCHS, PATIENCE_STEPS = 2, 200  # a loss that has not left ln K yet must stay there for both
LEARNT = 0.9  # a loss below this fraction of ln K shows that the run has learnt something
TOLD_APART = 0.97  # codes of an entropy below this fraction of ln K tell images apart


UNIFORM = "the codes are uniform"


def _sample(rows: Tensor) -> Tensor:
    """Evenly spaced rows of (n, D), so few that RankMe takes a few milliseconds."""
    n = ROWS if rows.shape[1] <= ROWS else ROWS // 2
    return rows[:: max(1, len(rows) // n)][:n]


class Collapsed(Exception):
    """The run has collapsed, and its settings ask for a mend.

    Attributes:
        step: Steps done when it was noticed.
        what: The signs, and since when.
        message: The same with the figures of the step.
    """

    def __init__(self, step: int, what: str, message: str) -> None:
        super().__init__(f"step {step}: collapsed, {message}")
        self.step, self.what, self.message = step, what, message


class CollapseWatch:
    """Checks every line of metrics.jsonl, every `--log-every` steps, for four signs of collapse.

    Two signs are unambiguous, as a healthy run never shows them, not even in its first steps: the effective rank of the
    embeddings (RankMe) is below 1.2; all images are in one cluster. One of them is a collapse once ten lines in a row
    have shown it, with `--log-every 10`; with other values, as many lines as there are in 100 steps. So a collapse is
    noticed at most 100 steps after it began. Beyond `--log-every 50` one line is enough, and beyond 100 the collapse is
    noticed at the next line only.

    The other two signs are a loss within 1 % of ln K, that of guessing, or above, and an entropy of the codes within
    1 % of uniform. A healthy run may begin there, for thousands of steps if an epoch is long, and SwAV does as long as
    its prototypes are frozen. So they are treated as the first two only after the loss has once been 10 %, or the
    entropy 3 %, below ln K. Before that, they must last for two epochs and at least 200 steps, and beyond warm-up and
    frozen steps. For the loss this holds for the whole run in methods that renew all targets each epoch.

    A loss or gradient that is not finite ends the run at once.

    Args:
        method: Whose figures and embeddings are checked.
        settings: Of the run; `on_collapse` says what follows.
        steps_per_epoch: Of the run.
        agree: Makes the signs of this rank, on or off, those of all ranks.

    Attributes:
        settings: Replaced when a run is mended.
        since: The signs that are on, with the step of the first line that showed them.
    """

    def __init__(
        self,
        method: Method,
        settings: RunSettings,
        steps_per_epoch: int,
        agree: Callable[[list[bool]], list[bool]] = list,
    ) -> None:
        self.method, self.settings, self.steps_per_epoch, self.agree = method, settings, steps_per_epoch, agree
        self.since: dict[str, int] = {}
        self.said = self.has_learnt = self.had_codes = False

    def is_healthy(self, step: int) -> bool:
        """Whether the last line was written shortly before `step` and showed no sign, not even one that may pass."""
        return not self.since and step % self.settings.log_every <= NOTICED // 2

    def state_dict(self) -> dict[str, Any]:
        learnt = {"has_learnt": self.has_learnt, "had_codes": self.had_codes}
        return {"since": dict(self.since), "said": self.said, **learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.since, self.said = dict(state["since"]), state["said"]
        # not in checkpoints of versions before 0.2
        self.has_learnt, self.had_codes = state.get("has_learnt", False), state.get("had_codes", False)

    def measure(self, losses: list[Tensor]) -> dict[str, float]:
        """Mean of the losses and figures of the current step, after its backward pass. Waits for a GPU once."""
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        tensors = {name: torch.as_tensor(value) for name, value in self.method.figures().items()}
        of_method = list(tensors)
        tensors["gradient_norm"] = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        tensors["loss"] = torch.stack(losses).mean()
        *numbers, rows = to_host([*tensors.values(), _sample(self.method.embeddings)])
        figures = {name: number.item() for name, number in zip(tensors, numbers, strict=True)}
        for name in of_method:
            if math.isnan(figures[name]):  # not known yet, such as the NMI before the second clustering
                del figures[name]
        return figures | {"rankme": rankme(rows.float()) if rows.isfinite().all() else math.nan}

    def refuse_what_is_not_finite(self, figures: dict[str, float]) -> None:
        """Raise TrainingFailed if a figure is NaN or infinite, before it is written to metrics.jsonl."""
        for name in ("loss", "gradient_norm", "rankme"):
            if not math.isfinite(figures[name]):
                raise TrainingFailed(
                    f"step {figures['step']}: the {name.replace('_', ' ')} is {figures[name]}; "
                    f"lower --lr ({self.settings.lr:g} now), add --warmup-epochs, or use --precision 32"
                )

    @torch.no_grad()
    def is_finite(self, losses: list[Tensor]) -> Tensor:
        """Whether these losses and all weights are finite: () bool on the device."""
        # the maximum norm of a tensor is NaN or infinite if any number in it is
        return torch.stack(torch._foreach_norm([*losses, *self.method.parameters()], float("inf"))).isfinite().all()

    def refuse_to_save(self, step: int) -> NoReturn:
        """Raise TrainingFailed for a checkpoint that is not finite, as it would replace the last good one."""
        raise TrainingFailed(
            f"step {step}: the loss or the weights are not finite; the checkpoints before it are kept; "
            f"lower --lr ({self.settings.lr:g} now), add --warmup-epochs, or use --precision 32"
        )

    def look(self, figures: dict[str, float]) -> str | None:
        """Look for signs of collapse in a line of metrics.jsonl. Collective. Returns a warning to print, at most once.

        Raises:
            Collapsed: If the run is to be mended.
            TrainingFailed: If the run is to stop.
        """
        step, signs = int(figures["step"]), self._signs(figures)
        *on, self.has_learnt, self.had_codes = self.agree([*signs.values(), self.has_learnt, self.had_codes])
        signs = dict(zip(signs, on, strict=True))
        self.since = {sign: self.since.get(sign, step) for sign, on in signs.items() if on}
        lasting = {sign: first for sign, first in self.since.items() if self._lasts(sign, step, first)}
        if not lasting or (self.said and self.settings.on_collapse == "warn"):
            return None
        what = f"{' and '.join(lasting)} from step {min(lasting.values())} on"
        shown = ", ".join(
            f"{name} {figures[name]:.3g}"
            for name in ("loss", "rankme", "effective_clusters", "code_entropy", "gradient_norm")
            if name in figures
        )
        if self.settings.on_collapse == "mend":
            raise Collapsed(step, what, f"{what} ({shown})")
        self.said = True
        message = f"step {step}: collapsed, {what} ({shown}); try {self.advice(step)}"
        if self.settings.on_collapse == "stop":
            raise TrainingFailed(f"{message}. --on-collapse warn goes on all the same, mend applies a remedy")
        return message

    def advice(self, step: int) -> str:
        """All remedies of the method, in words."""
        return "; or ".join(str(remedy) for remedy in self.method.remedies(step, self.steps_per_epoch))

    def _signs(self, figures: dict[str, float]) -> dict[str, bool]:
        """Which signs are on, the loss first."""
        uniform = math.log(self.method.k)
        self.has_learnt |= figures["loss"] < LEARNT * uniform
        self.had_codes |= figures.get("code_entropy", math.inf) < TOLD_APART * uniform
        return {
            self._of_the_loss: figures["loss"] >= 0.99 * uniform,
            "all images have one embedding (RankMe below 1.2)": figures["rankme"] < 1.2,
            "all images are in one cluster": figures.get("effective_clusters", math.inf) < 1.05,
            UNIFORM: figures.get("code_entropy", 0.0) >= 0.99 * uniform,
        }

    @property
    def _of_the_loss(self) -> str:
        return f"the loss is ln K = {math.log(self.method.k):.3f}, that of guessing"

    def _lasts(self, sign: str, step: int, first: int) -> bool:
        """Whether a sign that is on at `step`, and at every line from `first` on, has lasted long enough."""
        every, epoch = self.settings.log_every, self.steps_per_epoch
        is_loss = sign == self._of_the_loss
        at_its_start = is_loss and (self.method.renews_targets or not self.has_learnt)
        if at_its_start or (sign == UNIFORM and not self.had_codes):
            beginning = max(self.method.frozen_steps, self.settings.warmup_epochs * epoch)
            return step >= beginning and step - first >= max(PATIENCE_STEPS, PATIENCE_EPOCHS * epoch)
        # The collapse began after the line before `first`, so this line is the last one within NOTICED steps of it.
        return step - first >= max(0, NOTICED // every - 1) * every
