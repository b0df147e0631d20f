"""Our methods, by our own command line, as a user would start them.

The number of epochs must fit the budget, so a short trial measures the speed first; it is not counted, and is kept for
the other runs of the entrant. The learning rate then ends with the budget, or a little before. A run that is slower
than its trial is told to stop (SIGTERM) when the budget is spent, and its last checkpoint counts.

Networks in between come from checkpoints, which the run writes anyway.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sobel_resnet import ResNet, save_backbone

from benchmarks.quality.job import N_SNAPSHOTS, Job, Outcome
from benchmarks.quality.records import ROOT

TRIAL_S, TRIAL_STEPS = 20.0, 1_000_000  # a trial lasts so many seconds from its first step on
AIM = 0.97  # of the budget: the rest is for a machine that is slower than in the trial
POLL_S = 0.2


@dataclass(frozen=True)
class Speed:
    """What a trial measured.

    Attributes:
        once_s: Before the first step, such as the first clustering.
        epoch_s: Before the first step of every epoch.
    """

    once_s: float
    epoch_s: float
    steps_per_s: float
    steps_per_epoch: int
    batch: int

    def steps_in(self, seconds: float) -> int:
        """Steps that fit, at least one."""
        whole_s = self.epoch_s + self.steps_per_epoch / self.steps_per_s
        epochs, rest_s = divmod(max(0.0, seconds - self.once_s), whole_s)
        return max(1, int(epochs) * self.steps_per_epoch + max(0, int((rest_s - self.epoch_s) * self.steps_per_s)))


def schedule(n_steps: int, steps_per_epoch: int) -> tuple[int, int]:
    """Epochs of the schedule and steps to do: whole epochs, or up to three quarters of one less than the last.

    A cosine that stops at three tenths of its last epoch of seven has 3 % of its learning rate left; a run that ended
    at the sixth would waste 5 % of the budget.
    """
    epochs = max(1, math.ceil(n_steps / steps_per_epoch - 0.25))
    return epochs, min(n_steps, epochs * steps_per_epoch)


def run(job: Job) -> Outcome:
    """Race one of ours."""
    speed = _speed(job)
    options = job.settings["options"]
    n_steps = speed.steps_in(AIM * job.seconds)
    if "epochs" in options:
        epochs = int(options["epochs"])
        n_steps = min(n_steps, epochs * speed.steps_per_epoch)
    else:
        epochs, n_steps = schedule(n_steps, speed.steps_per_epoch)
    # so that the last checkpoint in between is well before the end
    every = max(1, math.ceil(n_steps / N_SNAPSHOTS))
    more = {"seed": job.seed, "epochs": epochs, "max_steps": n_steps, "checkpoint_every": every}
    watch = Watch(job.folder / "run")
    watch.follow(_command(job, watch.folder, more), job.folder, job.seconds)

    config = tomllib.loads((watch.folder / "config.toml").read_text())
    outcome = Outcome(mean=config["mean"], std=config["std"], command=_shown(job, more), ended=watch.ended)
    outcome.curve = [[*point[:2], point[1] * speed.batch, point[2]] for point in watch.curve]
    snapshots = _backbones(watch, config, job.folder)
    for step, name in snapshots:
        outcome.snapshots.append((watch.time_of(step), step, name))
    outcome.wall_s, outcome.steps = outcome.snapshots[-1][:2]
    outcome.n_images = outcome.steps * speed.batch
    recipe = {name: value for name, value in config.items() if name not in ("out", "data", "val")}  # paths of a machine
    outcome.notes = {"trial": asdict(speed), "planned_steps": n_steps, "config": recipe}
    return outcome


def _options(job: Job) -> dict[str, Any]:
    always = {"device": "cpu", "workers": 0, "knn_every": 0, "log_every": 10}
    return {**always, **job.settings["options"]}


def _arguments(options: dict[str, Any]) -> list[str]:
    found = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            found.append(flag if value else "--no-" + flag[2:])
        else:
            found += [flag, *map(str, value if isinstance(value, list | tuple) else [value])]
    return found


def _command(job: Job, out: Path, more: dict[str, Any]) -> list[str]:
    options = {**_options(job), **more, "report": False, "quiet": True, "out": out}
    data = f"npz:{job.images / 'images.npz'}"
    start = [sys.executable, str(ROOT / "apps" / "pretrain"), "--recipe", job.settings["recipe"], "--data", data]
    return [*start, *_arguments(options)]


def _shown(job: Job, more: dict[str, Any]) -> str:
    options = _arguments({**_options(job), **more})
    return " ".join(["pretrain", "--recipe", job.settings["recipe"], "--data", "npz:images.npz", *options])


class Watch:
    """Looks at a run from outside, a few times a second: its lines of metrics, its checkpoints, the clock.

    Attributes:
        curve: [seconds, step, loss] of each line.
        checkpoints: Links to checkpoints that the run has replaced since.
        ended: As in `Outcome`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.curve: list[list[float]] = []
        self.checkpoints: list[Path] = []
        self.ended = "schedule"
        self._began: float | None = None
        self._read = 0
        self._inode = 0

    def follow(self, command: list[str], job_folder: Path, seconds: float, after_first_s: float | None = None) -> None:
        """Run `command` to its end, or until `seconds` are spent, or `after_first_s` after its first line of metrics.

        Raises:
            RuntimeError: If it fails.
        """
        with (job_folder / "pretrain.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            asked = False
            try:
                while process.poll() is None:
                    time.sleep(POLL_S)
                    now = self.look()
                    is_spent = now >= seconds
                    if after_first_s is not None and self.curve:
                        is_spent = now >= self.curve[0][0] + after_first_s
                    is_spent = is_spent and bool(
                        self.curve
                    )  # in trials of seconds, so that there is something to score
                    if is_spent and not asked and not (self.folder / "backbone.safetensors").exists():
                        process.send_signal(signal.SIGTERM)
                        asked, self.ended = True, "budget"
            finally:
                if process.poll() is None:
                    process.kill()
        self.look()
        if process.returncode != 0 and not asked:
            lines = (job_folder / "pretrain.log").read_text().strip().splitlines()
            raise RuntimeError(f"pretrain ended with {process.returncode}: {lines[-1] if lines else ''}")

    def look(self) -> float:
        """Note what is new. Returns the seconds since the run made its folder, 0 before."""
        if self._began is None:
            settings = self.folder / "config.toml"
            if not settings.exists():
                return 0.0
            self._began = settings.stat().st_mtime
            (self.folder.parent / "began").touch()
        now = time.time() - self._began
        metrics, checkpoint = self.folder / "metrics.jsonl", self.folder / "checkpoint.pt"
        if metrics.exists():
            with metrics.open() as file:
                file.seek(self._read)
                text = file.read()
            whole = text[: text.rfind("\n") + 1]
            self._read += len(whole.encode())
            for line in map(json.loads, whole.splitlines()):
                if "loss" in line:
                    self.curve.append([round(now, 2), line["step"], round(line["loss"], 4)])
        try:
            if (inode := checkpoint.stat().st_ino) != self._inode:
                link = self.folder.parent / f"checkpoint-{len(self.checkpoints)}.pt"
                os.link(checkpoint, link)
                self.checkpoints.append(link)
                self._inode = inode
        except FileNotFoundError:  # between two of them
            pass
        return now

    def time_of(self, step: int) -> float:
        """Seconds at a step, between two lines of metrics."""
        times, steps = [0.0, *(p[0] for p in self.curve)], [0, *(p[1] for p in self.curve)]
        return float(np.interp(step, steps, times))


def _backbones(watch: Watch, config: dict[str, Any], folder: Path) -> list[tuple[int, str]]:
    """Write the backbones of all checkpoints, and the result; (step, file), by step."""
    found: dict[int, str] = {}
    for i, checkpoint in enumerate(watch.checkpoints):
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights = {
            name.removeprefix("backbone."): value
            for name, value in saved["method"].items()
            if name.startswith("backbone.")
        }
        backbone = ResNet(config["arch"], sobel=config["sobel"], stem=config["stem"], width=config["width"])
        backbone.load_state_dict(weights)
        name = f"at-{i}.safetensors"
        save_backbone(backbone, folder / name)
        found[saved["step"]] = name
        checkpoint.unlink()
    result = watch.folder / "backbone.safetensors"
    if result.exists():
        last = int(watch.curve[-1][1])  # a run's last step always has a line
        shutil.copy(result, folder / "result.safetensors")
        found[last] = "result.safetensors"
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):  # memories of 50,000 images, which nobody needs again
        (watch.folder / name).unlink(missing_ok=True)
    if not found:
        raise RuntimeError("the budget was spent before the first step")
    return sorted(found.items())


def _speed(job: Job) -> Speed:
    """Measured once for the same settings and images, in a run of its own that ends after some twenty seconds."""
    key = json.dumps([job.settings["recipe"], _options(job), str(job.images)], sort_keys=True, default=str)
    kept = job.speeds / f"{job.entrant}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if kept.exists():
        return Speed(**json.loads(kept.read_text()))
    folder = job.folder / "trial"
    more = {"seed": job.seed, "epochs": 1000, "max_steps": TRIAL_STEPS, "checkpoint_every": TRIAL_STEPS, "log_every": 1}
    for after_first_s in (0.0, min(TRIAL_S, job.seconds / 2)):  # the first compiles what later runs find compiled
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        watch = Watch(folder / "run")
        watch.follow(_command(job, watch.folder, more), folder, math.inf, after_first_s)
    config = tomllib.loads((watch.folder / "config.toml").read_text())
    speed = _measured(watch.curve, config, len(np.load(job.images / "train.npz")["labels"]))
    shutil.rmtree(folder)
    job.speeds.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asdict(speed)))
    return speed


def _measured(curve: list[list[float]], config: dict[str, Any], n_images: int) -> Speed:
    first, last = curve[0], curve[-1]
    steps_per_s = max(1, last[1] - first[1]) / max(last[0] - first[0], POLL_S)
    before_s = max(0.0, first[0] - first[1] / steps_per_s)
    batch = config["batch"]
    per_epoch = n_images // batch if config["drop_last"] else math.ceil(n_images / batch)
    again = config["method"] == "deepcluster"  # it computes all features anew for each epoch
    return Speed(0.0 if again else before_s, before_s if again else 0.0, steps_per_s, per_epoch, batch)
