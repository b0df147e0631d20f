"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math

from pretrain.settings import Training


def lr_at(step: int, steps_per_epoch: int, settings: Training) -> float:
    """Learning rate of step `step` (0-based): linear warm-up, then steps or a cosine, with both end values reached."""
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.warmup_lr + (settings.lr - settings.warmup_lr) * step / max(warmup - 1, 1)
    if settings.schedule == "cosine":
        if settings.cosine_by_epoch:
            step -= step % steps_per_epoch
        t, n = step - warmup, settings.epochs * steps_per_epoch - warmup
        return settings.final_lr + 0.5 * (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * t / n))
    epoch = step // steps_per_epoch
    return settings.lr * settings.lr_gamma ** sum(epoch >= drop for drop in settings.lr_steps)
