"""Settings that follow from others where the command line is silent.

The epochs follow from `--steps` and the number of images.

The learning rate of a recipe was chosen for the recipe's batch. With another batch it is scaled: in proportion for SGD
and the optimisers built on it (Goyal et al. 2017, arXiv:1706.02677), with the square root for Adam (Malladi et al.
2022, arXiv:2205.10287).
"""

from __future__ import annotations

import math
from collections.abc import Collection

from steady_runs import checked

from pretrain.settings import RunSettings

RATES = ("lr", "final_lr", "warmup_lr")


def scaled_rates(recipe: RunSettings, settings: RunSettings, given: Collection[str]) -> dict[str, float]:
    """Learning rates of the recipe, scaled to another batch.

    Args:
        recipe: Settings of the recipe.
        settings: The same with what the command line gave.
        given: Fields that the command line gave.

    Returns:
        New values by field name; empty if the batch is the recipe's, or a learning rate was given.
    """
    if settings.batch == recipe.batch or any(rate in given for rate in RATES):
        return {}
    factor = settings.batch / recipe.batch
    if settings.optimizer == "adam":
        factor = math.sqrt(factor)
    return {rate: float(f"{getattr(recipe, rate) * factor:.4g}") for rate in RATES if getattr(recipe, rate)}


def said(recipe: RunSettings, settings: RunSettings) -> str:
    """The line on scaled learning rates for the header of a run."""
    return f"--lr {settings.lr:g}: the recipe's {recipe.lr:g} is for --batch {recipe.batch}, so it is scaled"


def with_epochs(settings: RunSettings, n_images: int) -> RunSettings:
    """The settings with as many whole epochs as `steps` asks for, and without `steps`; raises BadInput."""
    if settings.steps is None:
        return settings
    epochs = max(1, round(settings.steps / steps_of_an_epoch(settings, n_images)))
    return checked(type(settings), settings.model_dump(exclude_none=True, exclude={"steps"}) | {"epochs": epochs})


def steps_of_an_epoch(settings: RunSettings, n_images: int) -> int:
    """Optimiser steps that go once over all images."""
    batch = min(settings.batch, n_images)
    return n_images // batch if settings.drop_last else math.ceil(n_images / batch)
