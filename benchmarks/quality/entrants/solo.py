"""solo-learn's own functions, from a checkout of its sources: its package on PyPI wants torch 1.9.

    git clone https://github.com/vturrisi/solo-learn .data/solo-learn
    git -C .data/solo-learn checkout 9187ea39c2

or the environment variable SOLO_LEARN with another folder. Nothing of it is in this repository: single files are run
where they lie, since `import solo` wants all that the project ever needs.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.quality.entrants import rival
from benchmarks.quality.entrants.crops import TwoCrops
from benchmarks.quality.records import ROOT, commit


def source(path: str) -> Any:
    """The module in a file of solo-learn, such as losses/swav.py."""
    folder = Path(os.environ.get("SOLO_LEARN", ROOT / ".data" / "solo-learn"))
    file = folder / "solo" / path
    if not file.exists():
        raise FileNotFoundError(
            f"{file} is not there: git clone https://github.com/vturrisi/solo-learn .data/solo-learn, or set SOLO_LEARN"
        )
    spec = importlib.util.spec_from_file_location(f"solo_learn_{Path(path).stem}_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Solo(rival.Rival):
    """Projector, crops and LARS, which both methods of solo-learn share. `prototypes` may learn."""

    def __init__(self, backbone: Any, settings: dict[str, Any], n_images: int) -> None:
        super().__init__(backbone, settings, n_images)
        self.notes = {"solo-learn": commit(Path(os.environ.get("SOLO_LEARN", ROOT / ".data" / "solo-learn")))}
        self.projector = nn.Sequential(
            nn.Linear(backbone.num_features, settings["hidden"]),
            nn.BatchNorm1d(settings["hidden"]),
            nn.ReLU(),
            nn.Linear(settings["hidden"], settings["dim"]),
        )

    def learn(self, *modules: nn.Module) -> None:
        """Set network and optimiser."""
        self.network = nn.ModuleList([self.backbone, self.projector, *modules])
        self.optimizer = source("utils/lars.py").LARS(
            [parameter for parameter in self.network.parameters() if parameter.requires_grad],
            **{"lr": self.lr, "momentum": 0.9, "weight_decay": self.settings["weight_decay"]},
            **{"eta": 0.02, "clip_lr": True, "exclude_bias_n_norm": True},
        )

    def transform(self) -> Any:
        return TwoCrops(self.settings)
