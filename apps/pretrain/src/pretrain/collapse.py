"""Detect collapse without labels, and end a run that has collapsed."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from eval_probes import rankme
from steady_runs import TrainingFailed
from torch import Tensor

from pretrain.fetch import to_host
from pretrain.method import Method

ROWS = 512  # embeddings whose effective rank is computed
PATIENCE_EPOCHS, PATIENCE_STEPS = 2, 200  # a sign must last both, as a healthy run may start near ln K


def _sample(rows: Tensor) -> Tensor:
    """Evenly spaced rows of (n, D), so few that RankMe takes a few milliseconds."""
    n = ROWS if rows.shape[1] <= ROWS else ROWS // 2
    return rows[:: max(1, len(rows) // n)][:n]


class CollapseWatch:
    """Checks every line of metrics.jsonl. A collapse raises TrainingFailed, or is reported once with `stop=False`.

    A sign of collapse must last for two epochs and at least 200 steps: the loss is within 1 % of ln K or above; the
    effective rank of the embeddings (RankMe) is below 1.2; all images are in one cluster; the entropy of the codes is
    within 1 % of uniform. A loss or gradient that is not finite ends the run at once.
    """

    def __init__(self, method: Method, steps_per_epoch: int, lr: float, *, stop: bool) -> None:
        self.method, self.stop, self.lr = method, stop, lr
        self.patience = max(PATIENCE_STEPS, PATIENCE_EPOCHS * steps_per_epoch)
        self.since: dict[str, int] = {}
        self.said = False

    def state_dict(self) -> dict[str, Any]:
        return {"since": dict(self.since), "said": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.since, self.said = dict(state["since"]), state["said"]

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
                    f"lower --lr ({self.lr:g} now), add --warmup-epochs, or use --precision 32"
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
            f"lower --lr ({self.lr:g} now), add --warmup-epochs, or use --precision 32"
        )

    def look(self, figures: dict[str, float]) -> str | None:
        """Look for signs of collapse in a line of metrics.jsonl. Returns a warning to print, at most once."""
        step, uniform = int(figures["step"]), math.log(self.method.k)
        signs = {
            f"the loss is ln K = {uniform:.3f}, that of guessing": figures["loss"] >= 0.99 * uniform,
            "all images have one embedding (RankMe below 1.2)": figures["rankme"] < 1.2,
            "all images are in one cluster": figures.get("effective_clusters", math.inf) < 1.05,
            "the codes are uniform": figures.get("code_entropy", 0.0) >= 0.99 * uniform,
        }
        self.since = {sign: self.since.get(sign, step) for sign, on in signs.items() if on}
        lasting = [sign for sign, first in self.since.items() if step - first >= self.patience]
        if not lasting or self.said:
            return None
        self.said = True
        shown = ", ".join(
            f"{name} {figures[name]:.3g}"
            for name in ("loss", "rankme", "effective_clusters", "code_entropy", "gradient_norm")
            if name in figures
        )
        message = (
            f"step {step}: collapsed, {' and '.join(lasting)} for {self.patience} steps ({shown}); "
            f"try {'; or '.join(self.method.remedies)}"
        )
        if self.stop:
            raise TrainingFailed(f"{message}. --on-collapse warn goes on all the same")
        return message
