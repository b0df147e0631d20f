"""The folder of a pretraining run.

config.toml           all settings: `pretrain --recipe config.toml` repeats the run
metrics.jsonl         one JSON object a line; the last has "final": true
checkpoint.pt         all that `resume` needs; checkpoint.previous.pt is the one before
tensorboard/          the same figures for TensorBoard
backbone.safetensors  the result
report.html           the result, for people
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Self

from steady_runs import RunFolder, replace

from pretrain.recipe_files import check_settings, dump, read_recipe
from pretrain.settings import RunSettings


class PretrainFolder(RunFolder):
    """A run folder whose settings are config.toml."""

    settings_name: ClassVar[str] = "config.toml"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.backbone = path / "backbone.safetensors"

    @classmethod
    def of_restart(cls, settings: RunSettings) -> Self | None:
        """The folder that this very command made before torchrun or Slurm restarted it; None if there is none."""
        if not any(int(os.environ.get(name, 0)) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")):
            return None
        candidates = [Path(settings.out)] if settings.out else sorted(Path("runs").glob(f"{settings.method}-*"))
        for path in reversed(sorted(candidates, key=_age)):
            if (path / cls.settings_name).exists():
                folder = cls(path)
                if folder.read_config() == settings:
                    return folder
        return None

    def read_config(self) -> RunSettings:
        """The settings of the run. Raises BadInput if config.toml is damaged or was edited to something invalid."""
        values, _ = read_recipe(str(self.settings_file))
        return check_settings(values, str(self.settings_file))

    def write_config(self, settings: RunSettings) -> None:
        replace(self.settings_file, dump(settings))


def _age(folder: Path) -> float:
    return folder.stat().st_mtime if folder.exists() else 0.0
