"""Who takes part, with which settings. Edit here; a record keeps the settings that it was made with.

Our entrants: `recipe` is a recipe of `pretrain`, `options` what its command line is given besides, without dashes.
Rivals: what their modules read; the published set for CIFAR-10 of each project, where it has one. Their schedules are
in fractions of the budget instead of epochs: `warmup` 0.01 is 10 epochs of 1,000. The learning rate is that of
`lr_batch` images and grows with the batch.
`by_minutes`: settings for budgets from so many minutes on, over `settings`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

WIDTH = 0.25  # of everybody's ResNet-18
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)}
AS_OURS = {"batch": 64, "size": 24, "scale": (0.3, 1.0)}  # batch and crops of our recipes


@dataclass(frozen=True)
class Entrant:
    """One who takes part.

    Attributes:
        label: In tables and figures.
        module: Of this folder.
        colour: In figures.
        is_variant: Takes part only when it is named.
    """

    label: str
    module: str
    colour: str
    settings: dict[str, Any]
    by_minutes: dict[float, dict[str, Any]] = field(default_factory=dict)
    is_variant: bool = False

    @property
    def is_ours(self) -> bool:
        return self.module == "ours"

    def settings_for(self, minutes: float) -> dict[str, Any]:
        found = dict(self.settings)
        for start, changes in sorted(self.by_minutes.items()):
            found |= changes if minutes >= start else {}
        return found


def _ours(method: str, colour: str) -> Entrant:
    options = {"width": WIDTH, "precision": "32", "on_collapse": "warn"}
    return Entrant(method, "ours", colour, {"recipe": f"{method}_cifar10_cpu", "options": options})


LIGHTLY_SWAV: dict[str, Any] = {
    **{"width": WIDTH, "sobel": False, "batch": 128, "size": 32, "scale": (0.14, 1.0), "cj_strength": 0.5},
    **{"hidden": 512, "dim": 128, "k": 512, "lr": 1e-3, "lr_batch": 128, "weight_decay": 1e-6},
    **{"warmup": 0.0, "normalise": IMAGENET},
}
LIGHTLY_SIMCLR: dict[str, Any] = {
    **{"width": WIDTH, "sobel": False, "batch": 128, "size": 32, "scale": (0.08, 1.0), "cj_strength": 0.5},
    **{"hidden": 512, "dim": 128, "temperature": 0.5, "lr": 6e-2, "lr_batch": 128, "weight_decay": 5e-4},
    **{"warmup": 0.0, "normalise": IMAGENET},
}
SOLO: dict[str, Any] = {
    **{"width": WIDTH, "sobel": False, "batch": 256, "size": 32, "scale": (0.08, 1.0), "blur": 0.5},
    **{"hidden": 2048, "dim": 128, "k": 3000, "temperature": 0.1, "lr": 0.6, "lr_batch": 256, "weight_decay": 1e-6},
    **{"warmup": 0.01, "normalise": CIFAR},
}
SOLO_SWAV: dict[str, Any] = {**SOLO, "epsilon": 0.05, "queue": 3840, "queue_from": 0.05, "frozen": 0.002}
SOLO_DEEPCLUSTER_V2: dict[str, Any] = {**SOLO, "warmup": 0.011, "final_lr": 1e-3, "heads": 3, "kmeans_iters": 10}
AUTHORS_STEP: dict[str, Any] = {
    # the paper has no set for CIFAR-10: lr and weight decay are its own for small batches, the rest is as ours
    **{"width": WIDTH, "sobel": False, **AS_OURS, "hidden": 256, "dim": 64, "k": 100},
    **{"temperature": 0.1, "epsilon": 0.05, "lr": 0.6, "lr_batch": 256, "weight_decay": 1e-6},
    **{"warmup": 0.0, "frozen": 0.01, "normalise": IMAGENET},
}

ENTRANTS: dict[str, Entrant] = {
    "deepcluster": _ours("deepcluster", "#2f6fde"),
    "odc": _ours("odc", "#d9822b"),
    "deepcluster_v2": _ours("deepcluster_v2", "#2a9d6f"),
    "swav": _ours("swav", "#b0409a"),
    "lightly_swav": Entrant("Lightly SwAV", "lightly_swav", "#7a7f87", LIGHTLY_SWAV),
    "authors_step": Entrant("SwAV from the paper", "authors_step", "#c04040", AUTHORS_STEP),
    "solo_swav": Entrant("solo-learn SwAV", "solo_swav", "#a07a3a", SOLO_SWAV),
    "solo_deepcluster_v2": Entrant("solo-learn DeepCluster-v2", "solo_deepcluster_v2", "#4a8a8a", SOLO_DEEPCLUSTER_V2),
    "lightly_simclr": Entrant("Lightly SimCLR", "lightly_simclr", "#303338", LIGHTLY_SIMCLR),
    # the same code with batch and crops of ours, and clusters fit for it
    "lightly_swav_small": Entrant(
        *("Lightly SwAV, our batch and crops", "lightly_swav", "#9aa0a8"),
        {**LIGHTLY_SWAV, **AS_OURS},
        is_variant=True,
    ),
    "lightly_simclr_small": Entrant(
        *("Lightly SimCLR, our batch and crops", "lightly_simclr", "#606368"),
        {**LIGHTLY_SIMCLR, **AS_OURS},
        is_variant=True,
    ),
    "solo_swav_small": Entrant(
        *("solo-learn SwAV, our batch and crops", "solo_swav", "#c0a070"),
        {**SOLO_SWAV, **AS_OURS, "blur": 0.0, "k": 100, "hidden": 256, "dim": 64, "queue": 128},
        is_variant=True,
    ),
    "solo_deepcluster_v2_small": Entrant(
        *("solo-learn DeepCluster-v2, our batch and crops", "solo_deepcluster_v2", "#80b0b0"),
        {**SOLO_DEEPCLUSTER_V2, **AS_OURS, "blur": 0.0, "k": 100, "hidden": 256, "dim": 64},
        is_variant=True,
    ),
}

# Networks that learn nothing, for the foot of the table.
RANDOM: dict[str, dict[str, Any]] = {
    "random": {"width": WIDTH, "sobel": False, "normalise": IMAGENET},
    "random_sobel": {"width": WIDTH, "sobel": True, "normalise": IMAGENET},
}


def with_changes(texts: list[str]) -> dict[str, Entrant]:
    """The table with `ENTRANT.KEY=VALUE` of the command line; `KEY` is `options.NAME` for an option of ours.

    Raises SystemExit for a name that is not there.
    """
    entrants = dict(ENTRANTS)
    for text in texts:
        key, _, value = text.partition("=")
        name, _, path = key.partition(".")
        if name not in entrants or not path or not value:
            raise SystemExit(f"--set {text}: expected ENTRANT.KEY=VALUE, with one of {', '.join(entrants)}")
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value
        settings = dict(entrants[name].settings)
        first, _, rest = path.partition(".")
        if first not in settings:
            raise SystemExit(f"--set {text}: {name} has no {first}; it has {', '.join(settings)}")
        settings[first] = {**settings[first], rest: parsed} if rest else parsed
        entrants[name] = replace(entrants[name], settings=settings)
    return entrants
