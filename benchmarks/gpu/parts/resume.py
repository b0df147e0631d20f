"""`resume:training`: a short SwAV training with kNN at full speed. `resume:killed`: a run that is killed and resumed
beside one that is not.

Images: `GPU_DATA` as --data takes it; else .data/gpu-data/train.npz and val.npz; else the drawn images at CIFAR-10's
size. Two runs on a GPU have the same bits only with deterministic kernels, so `killed` asks for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pretrain.launch import launch
from pretrain.run_folder import PretrainFolder
from pretrain.train import train

from benchmarks.gpu.part import Figures, Part
from benchmarks.gpu.training import after_each_step, lines_of, settings_of

ROOT = Path(__file__).parents[3]


def run(part: Part, which: str) -> None:
    if which == "training":
        part.try_("swav with kNN", lambda: trained(part))
    else:
        part.try_("killed by SIGKILL and resumed, against a run that was not", lambda: killed(part))


def data_of(part: Part) -> str:
    if given := os.environ.get("GPU_DATA"):
        return given
    folder = ROOT / ".data" / "gpu-data"
    if (folder / "train.npz").exists():
        return f"npz:{folder / 'train.npz'},{folder / 'val.npz'}"
    return str(part.size("shapes:n=50000,n_val=5000", "shapes:n=240,n_val=60"))


def trained(part: Part) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(
            part,
            "swav",
            Path(folder) / "run",
            data=data_of(part),
            crops=("2x24@0.4-1",),
            eval_size=32,
            batch=part.size(512, 48),
            k=part.size(200, 10),
            epochs=part.size(6, 2),
            lr=part.size(0.6, 0.1),
            schedule="cosine",
            epsilon=0.02,
            queue=0,
            freeze_prototypes_steps=0,
            knn_images=part.size(10_000, 200),
            log_every=20,
        )
        train(settings)
        lines = lines_of(settings)
    last = lines[-1]
    rates = [line["images_per_s"] for line in lines if "images_per_s" in line]
    better = last["knn_top1"] > last["knn_top1_random_init"]
    figures = {name: last[name] for name in ("knn_top1_random_init", "knn_top1", "wall_s")}
    figures |= {"images/s, median line": sorted(rates)[len(rates) // 2] if rates else "none", "data": settings.data}
    return ({"ok": better} if part.mode == "gpu" else {}) | figures


def killed(part: Part) -> Figures:
    """The second process dies at a step between two checkpoints, a third one goes on."""
    if part.mode == "gpu":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        _child(part, "start", whole)
        code = _child(part, "start", broken, "--kill", check=False)
        if code != -signal.SIGKILL:
            raise RuntimeError(f"the run that was to be killed ended with exit code {code}")
        _child(part, "resume", broken)
        a, b = (torch.load(path / "checkpoint.pt", weights_only=True, map_location="cpu") for path in (whole, broken))
        metrics = [PretrainFolder(path).read_metrics() for path in (whole, broken)]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in metrics]
    scores = [lines[-1]["knn_top1"] for lines in metrics]
    names = [name for name in a["method"] if not torch.equal(a["method"][name], b["method"][name])]
    off = max((abs(x / y - 1) for x, y in zip(*losses, strict=False)), default=float("nan"))
    same = not names and losses[0] == losses[1] and scores[0] == scores[1]
    figures = {"same bits": same, "tensors that differ": len(names), "of": len(a["method"]), "losses off": off}
    return {"ok": same} | figures | {"kNN": scores[0], "kNN resumed": scores[1]}


def _child(part: Part, what: str, out: Path, *more: str, check: bool = True) -> int:
    command = [sys.executable, "-m", "benchmarks.gpu.parts.resume", what, part.mode, str(out), *more]
    code = subprocess.run(command, cwd=ROOT).returncode
    if check and code:
        raise RuntimeError(f"`{what}` of a run ended with exit code {code}")
    return code


def child(part: Part, what: str, out: Path, kill: bool) -> None:
    """One process of `killed`: two epochs; a kill comes in the second, three steps after a checkpoint."""
    repeatable_kernels()
    batch, n = part.size((256, 4096), (24, 120))
    a_epoch = n // batch

    def look(_: Any, run: Any, __: Any) -> None:
        if kill and run.step + 1 == a_epoch + a_epoch // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with after_each_step("swav", look):
        if what == "resume":
            folder = PretrainFolder.existing(out)
            train(folder.read_config(), resume=folder)
            return
        more = {"data": f"shapes:n={n},n_val={n // 4}", "batch": batch, "epochs": 2, "log_every": 1}
        train(settings_of(part, "swav", out, **more | {"checkpoint_every": str(a_epoch - 1)}))


def repeatable_kernels() -> None:
    """The loop lets cuDNN choose by the clock, and two processes may choose differently."""
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    torch.use_deterministic_algorithms(True, warn_only=True)

    def and_repeatable(settings: Any) -> Any:
        machine = launch(settings)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        return machine

    patch("pretrain.train.launch", and_repeatable).start()


def main() -> None:
    from benchmarks.gpu.pretend import pretended_device

    what, mode, out, *more = sys.argv[1:]
    part = Part("resume:killed", mode, Path(os.devnull), 600)
    with pretended_device(mode == "pretend") as part.pretended:
        child(part, what, Path(out), "--kill" in more)


if __name__ == "__main__":
    main()
