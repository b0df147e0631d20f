"""Settings that follow from others and from the number of images, where the command line is silent.

A batch is never larger than the set. Epochs follow from `--steps`.

The learning rate of a recipe was chosen for the recipe's batch. With another batch it is scaled: in proportion for SGD
and the optimisers built on it (Goyal et al. 2017, arXiv:1706.02677), with the square root for Adam (Malladi et al.
2022, arXiv:2205.10287).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from steady_runs import checked

from pretrain.settings import RunSettings

RATES = ("lr", "final_lr", "warmup_lr")


@dataclass(frozen=True)
class RecipeRates:
    """Learning rates that come from a recipe.

    Attributes:
        batch: The batch that they were chosen for.
        names: Their fields.
    """

    batch: int
    names: tuple[str, ...]


def rates_of(recipe: RunSettings, settings: RunSettings, given: Collection[str]) -> RecipeRates | None:
    """The rates that may be scaled.

    Args:
        recipe: Settings of the recipe.
        settings: The same with what the command line gave.
        given: Fields that the command line gave.

    Returns:
        None if the command line gave a learning rate, or an optimiser that the recipe's rate was not chosen for.
    """
    if "lr" in given or settings.optimizer != recipe.optimizer:
        return None
    return RecipeRates(recipe.batch, tuple(rate for rate in RATES if rate not in given))


def follow(settings: RunSettings, n_images: int, rates: RecipeRates | None = None) -> tuple[RunSettings, list[str]]:
    """Apply the rules.

    Args:
        settings: Of a new run, or of one that is resumed; the rules change nothing of the latter but the batch.
        n_images: Images of the data set.
        rates: Those that may be scaled.

    Returns:
        The settings, and a line for the header on each change that is not plain to see.

    Raises:
        BadInput: If the new values do not go together.
    """
    values, remarks = settings.model_dump(exclude_none=True), []
    values["batch"] = batch = max(1, min(settings.batch, n_images))
    if settings.steps is not None:
        epoch = n_images // batch if settings.drop_last else math.ceil(n_images / batch)
        values["epochs"] = max(1, round(settings.steps / epoch))
        del values["steps"]
    if rates is not None and batch != rates.batch:
        factor = batch / rates.batch
        if settings.optimizer == "adam":
            factor = math.sqrt(factor)
        values |= {name: float(f"{getattr(settings, name) * factor:.4g}") for name in rates.names}
        was, now = settings.lr, values["lr"]
        remarks.append(
            f"--lr {now:g}: the recipe's {was:g} is for batches of {rates.batch}, so it is scaled to {batch}"
        )
    return checked(type(settings), values), remarks
