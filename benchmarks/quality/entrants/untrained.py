"""A network at random: what everybody starts from."""

from __future__ import annotations

from sobel_resnet import resnet18, save_backbone

from benchmarks.quality.job import Job, Outcome


def run(job: Job) -> Outcome:
    settings = job.settings
    save_backbone(
        resnet18(width=settings["width"], stem="cifar", sobel=settings["sobel"], seed=job.seed),
        job.folder / "at-0.safetensors",
    )
    return Outcome(**settings["normalise"], snapshots=[(0.0, 0, "at-0.safetensors")])
