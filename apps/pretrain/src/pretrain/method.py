"""What a method is to the training loop: an `nn.Module` with four hooks, and what it reports about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from sobel_resnet import ResNet
from steady_runs import BadInput
from steady_runs.settings import option_name
from torch import Tensor, nn

from pretrain.run import Run
from pretrain.settings import RunSettings


@dataclass(frozen=True)
class Remedy:
    """Something to try against collapse.

    Attributes:
        what: In words.
        change: Settings by field name, such as {"lr": 0.02}, that a run can change while it trains: no shape of its
            state depends on them. Empty if the remedy needs a new run; `what` then names the options.
    """

    what: str
    change: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> str:
        """The change as options: `--lr 0.02`."""
        return " ".join(f"{option_name(name)} {value}" for name, value in self.change.items())

    def __str__(self) -> str:
        return f"{self.what} ({self.options})" if self.change else self.what


def scaled(value: float, factor: float) -> float:
    """`value` times `factor`, rounded to three digits: a setting that people read and type."""
    return float(f"{value * factor:.3g}")


class Method(nn.Module, ABC):
    """Base of the methods, one file of `methods/` each. All state is in parameters and buffers, so in `state_dict`.

    Attributes:
        settings: Of the run. A mend of a collapse replaces them, so what follows from them is computed when it is used.
        backbone: The network that is the result of the run.
        k: Clusters or prototypes; of each clustering, if there are several.
        embeddings: (rows, D) of the last loss, without gradient; checked for collapse.
        renews_targets: Whether an epoch begins with new targets. The loss of a healthy run may then return to ln K.
        remark: A line to print before training starts, or None.
    """

    settings: RunSettings
    backbone: ResNet
    k: int
    embeddings: Tensor
    renews_targets: bool = False
    remark: str | None = None

    # ---- the four hooks ----

    def start(self, run: Run) -> None:
        """Called before the first step of a new run, and not after a resume."""

    def begin_epoch(self, run: Run, epoch: int) -> Tensor | None:
        """Called before the first step of an epoch. Returns the order of its images; None = a random permutation."""
        return None

    @abstractmethod
    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            crops: V of (B, 3, S, S), in the order of the recipe.
            indices: (B,) int64, the images' positions in the data set.

        Returns:
            A scalar.
        """

    def after_step(self, run: Run, indices: Tensor) -> None:
        """Called after the optimiser's step."""

    # ---- what it reports ----

    def figures(self) -> dict[str, Tensor | float]:
        """Numbers for a line of metrics.jsonl. 0-dim tensors stay on the device; NaN means not known yet."""
        return {}

    @abstractmethod
    def assign(self, run: Run) -> Tensor:
        """The current cluster of each image, (N,) int64. Collective."""

    @abstractmethod
    def remedies(self, step: int, steps_per_epoch: int) -> list[Remedy]:
        """What to try against collapse, the most likely remedy first, for a run that goes on from `step`."""

    @property
    def frozen_steps(self) -> int:
        """Steps from the start of the run in which a part of the network does not learn."""
        return 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser. A group may have `lr_factor` (1) and `frozen_steps` (0)."""
        return [{"params": list(self.parameters())}]


def sizes_of(assignments: Tensor, k: int) -> Tensor:
    """Number of members of each cluster, (K,) int64. Negative assignments count nowhere. Never waits for a GPU."""
    sizes = torch.zeros(k, dtype=torch.int64, device=assignments.device)
    return sizes.scatter_add_(0, assignments.clamp(min=0), (assignments >= 0).long())


def size_figures(sizes: Tensor) -> dict[str, Tensor | float]:
    """Figures of cluster sizes (K,): smallest, largest, and effective_clusters = exp(entropy of the sizes)."""
    probability = sizes.double() / sizes.sum()
    effective = torch.special.entr(probability).sum().exp()
    return {"smallest": sizes.amin(), "largest": sizes.amax(), "effective_clusters": effective}


def n_clusters(settings: RunSettings, n_images: int, at_most: int) -> int:
    """`--k`, or by default one cluster per 100 images, but at least 20 if that leaves five images for each.

    Raises BadInput if `--k` is more than the number of images."""
    default = max(2, min(at_most, max(n_images // 100, min(n_images // 5, 20))))
    if settings.k is None:
        return default
    if settings.k > n_images:
        raise BadInput(
            f"--k {settings.k} is more than the {n_images} images; "
            f"leave --k out or take at most {default}, about one cluster for 100 images"
        )
    return settings.k
