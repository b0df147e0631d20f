"""How many steps a run has, and how many images a step has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steady_runs import BadInput

from pretrain.micro_batches import check_micro_batches
from pretrain.settings import RunSettings


@dataclass(frozen=True)
class Plan:
    """Numbers that follow from the settings and the number of images.

    Attributes:
        n_images: Images of the data set.
        batch: Images per step, over all ranks.
        steps_per_epoch: Optimiser steps per epoch.
        last_step: Steps that the run does in all.
        statistics_batch: Images whose batch-norm statistics are taken together.
    """

    n_images: int
    batch: int
    steps_per_epoch: int
    last_step: int
    statistics_batch: int

    @property
    def last_epoch(self) -> int:
        """The 0-based epoch of the last step."""
        return math.ceil(self.last_step / self.steps_per_epoch) - 1


def make_plan(settings: RunSettings, n_images: int, n_ranks: int) -> Plan:
    """Raises BadInput if there are too few images, or if a rank or a micro-batch would have fewer than two."""
    if n_images < 4:
        raise BadInput(f"--data {settings.data}: {n_images} image(s), and clustering needs at least 4, better hundreds")
    batch = min(settings.batch, n_images)
    if batch < 2 * n_ranks:
        raise BadInput(f"--batch {batch} is less than 2 images for each of {n_ranks} processes; enlarge it")
    check_micro_batches(batch, n_ranks, settings.micro_batch)
    steps_per_epoch = n_images // batch if settings.drop_last else math.ceil(n_images / batch)
    n_steps = settings.epochs * steps_per_epoch
    last_step = n_steps if settings.max_steps is None else min(n_steps, settings.max_steps)
    statistics_batch = min(batch, (settings.micro_batch or batch) * n_ranks)
    return Plan(n_images, batch, steps_per_epoch, last_step, statistics_batch)
