"""The folder of a pretraining run.

config.toml           all settings: `pretrain --recipe config.toml` repeats the run; mends of collapses are in it
metrics.jsonl         one JSON object a line; the last has "final": true
checkpoint.pt         all that `resume` needs; checkpoint.previous.pt is the one before
checkpoint.kept.pt    the last one without a sign of collapse, which a mend goes back to
tensorboard/          the same figures for TensorBoard
backbone.safetensors  the result
report.html           the result, for people
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from steady_runs import RunFolder, checked, replace

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
                mended = read_recipe(str(folder.settings_file))[1].get("mended", [])
                if _without(folder.read_config(), mended) == _without(settings, mended):
                    return folder
        return None

    def read_config(self) -> RunSettings:
        """The settings of the run. Raises BadInput if config.toml is damaged or was edited to something invalid."""
        values, _ = read_recipe(str(self.settings_file))
        return check_settings(values, str(self.settings_file))

    def write_config(self, settings: RunSettings) -> None:
        replace(self.settings_file, dump(settings))

    def write_mends(self, mends: Sequence[Mapping[str, Any]]) -> None:
        """Bring config.toml and metrics.jsonl in line with the mends of the run (`state.py`), which are in the
        checkpoint. Writes nothing that is there already."""
        settings = self.read_config()
        for mend in mends:
            settings = checked(type(settings), {**settings.model_dump(exclude_none=True), **mend["change"]})
        about = {
            "mended": sorted({name for mend in mends for name in mend["change"]}),
            "mends": [
                "step {step}: {mended}; collapsed at step {collapsed_step}: {sign}".format(**mend["line"])
                for mend in mends
            ],
        }
        content = dump(settings, about)
        if content != self.settings_file.read_text(encoding="utf-8"):
            replace(self.settings_file, content)
        written = [line for line in self.read_metrics() if "mended" in line]
        for mend in mends[len(written) :]:
            self.append_metrics(mend["line"])


def _without(settings: RunSettings, names: Sequence[str]) -> dict[str, Any]:
    return settings.model_dump(exclude=set(names))


def _age(folder: Path) -> float:
    return folder.stat().st_mtime if folder.exists() else 0.0
