"""The backbone under test: its file, hash and description."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sobel_resnet import ResNet, load_backbone
from steady_runs import BadInput


@dataclass(frozen=True)
class Weights:
    """A backbone in eval mode, without gradients.

    Attributes:
        what: One line that describes it.
        data: Data set that it was trained on, which files of `pretrain` say.
    """

    backbone: ResNet
    path: str
    sha256: str
    what: str
    data: str | None


def newest_run(runs: Path = Path("runs")) -> Path:
    """The backbone under runs/ that was written last."""
    found = sorted(runs.glob("*/backbone.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BadInput("no --weights given and no run under runs/; first: uv run apps/pretrain odc")
    return found[-1]


def read_weights(path: str | None, *, random_init: bool, seed: int) -> Weights:
    """Read any file that `sobel_resnet.load_backbone` reads.

    Args:
        path: File, folder of a run, or folder of weights in parts with their index; None = the newest run.
        random_init: Take the architecture of the file, with random weights.
        seed: Of the random weights.
    """
    file = newest_run() if path is None else Path(path)
    if (file / "backbone.safetensors").is_file():
        file = file / "backbone.safetensors"
    try:
        backbone, report = load_backbone(file)
        digest = _sha256(file)
    except FileNotFoundError as error:
        raise BadInput(f"--weights {error}, or the folder of a run") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"--weights {error}") from None
    what = str(report)
    if random_init:
        backbone = ResNet(
            backbone.arch,
            sobel=backbone.sobel is not None,
            stem=backbone.stem,
            width=backbone.width,
            in_channels=backbone.in_channels,
            seed=seed,
        )
        what = f"{backbone.arch} with random weights (seed {seed})"
        digest = f"random-{seed}"
    return Weights(backbone.eval().requires_grad_(False), str(file), digest, what, report.metadata.get("data"))


def _sha256(file: Path) -> str:
    """Hash of a file; of weights in parts, that of all weights and indexes in the folder."""
    files = [file]
    if file.is_dir() or file.name.endswith(".index.json"):
        folder = file if file.is_dir() else file.parent
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    digest = hashlib.sha256()
    for one in files:
        digest.update(one.read_bytes())
    return digest.hexdigest()
