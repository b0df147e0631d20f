"""COCO with torchvision instead of MMDetection. Nothing needs to be compiled.

The results list under "changes" where it differs from the published protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from sobel_resnet import ResNet, architecture_of, load_backbone
from steady_runs import BadInput, Interrupted
from steady_runs.benchmark import Job, Outcome, draw_objects, read_weights, side_by_side
from steady_runs.benchmark.plain import Metrics, Part, Plan, batches, machine, main_rank_first, make_plan, train
from torch import Tensor, nn

from detect.coco import title
from detect.data import SMALL, open_data
from detect.settings import Coco
from detect.torchvision_data import CocoImages, Target, average_precision, entries
from detect.torchvision_model import DIFFERENCES, build_detector

BATCH, LR, MOMENTUM, WEIGHT_DECAY = 16, 0.02, 0.9, 1e-4
WARMUP, WARMUP_START = 1000, 0.001  # iterations; first factor on the learning rate
EPOCHS = {"1x": (12, (8, 11)), "2x": (24, (16, 22))}  # epochs; after which of them the learning rate falls tenfold
N_PICTURES = 6


def run(job: Job[Coco]) -> Outcome:
    """Train and score. Raises BadInput, TrainingFailed, Interrupted."""
    options, drawn = job.options, job.options.data == "shapes"
    with machine(job) as device:
        root, classes, lines = main_rank_first(job, lambda: open_data(job))
        weights = read_weights(job, load_backbone, ResNet, architecture_of)
        job.progress.say(f"weights    {weights.what}\n           {weights.file or 'no file'}")
        job.progress.say("data       " + "\n           ".join(lines))

        images, held_out = CocoImages(root, "train", options.seed), CocoImages(root, "val")
        if not len(images):
            raise BadInput(f"--data {root}: no object in any training image")
        epochs, falls = EPOCHS[options.schedule]
        epoch = -(-len(images) // BATCH)
        every = epochs * epoch if drawn else epoch  # scoring drawn images takes as long as many epochs
        plan = make_plan(job, iterations=epochs * epoch, batch=BATCH, lr=LR, every=every)

        sizes = {name: SMALL[name] for name in ("channels", "samples", "proposals")} if drawn else {}
        scale = options.scale or 1.0
        model: nn.Module = build_detector(weights.backbone, len(classes), seed=options.seed, scale=scale, **sizes)
        if job.world > 1 and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.to(device)
        optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        trained = train(
            job,
            plan,
            model,
            optimizer,
            learning_rate(plan, tuple(e * epoch for e in falls)),
            images,
            loss_of,
            lambda network: score(network, held_out, job, root),
        )
        changes = [*DIFFERENCES, *([f"image sizes x {scale:g}"] if scale != 1 else []), *plan.changes]
        if drawn:
            changes.append(", ".join(f"{value} {name}" for name, value in sizes.items()))
        if job.world > 1 and device.type == "cpu":
            changes.append("batch norm of each process by itself, on CPUs")
        return Outcome(
            metrics=trained.metrics,
            untrained=trained.untrained,
            facts={
                "weights": weights.what,
                "weights_file": weights.source,
                "data": "; ".join(lines),
                "engine": "torchvision",
                "model": "mask_rcnn_fpn_coco",
                "changes": changes,
            },
            pictures=pictures(model, held_out, classes) if job.rank == 0 else [],
            title=f"{title('fpn', options.schedule)}, by torchvision",
        )


def learning_rate(plan: Plan, falls: Sequence[int]) -> Callable[[int], float]:
    """Learning rate of each step: linear warm-up from a thousandth, then a tenth after each of `falls`.

    Args:
        plan: The run's figures.
        falls: Iterations of the protocol, which are scaled to those of the run.
    """
    warmup = min(WARMUP, max(1, plan.iterations // 10))
    falls = [max(1, round(fall * plan.share)) for fall in falls]

    def at(step: int) -> float:
        rise = min(1.0, WARMUP_START + (1 - WARMUP_START) * step / warmup)
        return plan.lr * rise * 0.1 ** sum(step >= fall for fall in falls)

    return at


def loss_of(model: nn.Module, batch: list[tuple[Tensor, Target]]) -> Tensor:
    """Sum of the losses of RPN, box head and mask head, each with weight 1."""
    device = next(model.parameters()).device
    images = [image.to(device, non_blocking=True) for image, _ in batch]
    targets = [{name: t.to(device, non_blocking=True) for name, t in target.items()} for _, target in batch]
    losses: dict[str, Tensor] = model(images, targets)
    return torch.stack(list(losses.values())).sum()


def score(model: nn.Module, held_out: CocoImages, job: Job[Coco], root: Path) -> Metrics:
    """Average precision of boxes and masks, over the detections of all ranks; {} on ranks other than 0."""
    part = Part(len(held_out), job)
    device, categories = next(model.parameters()).device, list(held_out.labels)
    found: list[dict[str, Any]] = []
    for done, [(image, target)] in enumerate(batches(held_out, job, part), 1):
        found += entries(target, model([image.to(device)])[0], categories)
        job.progress.doing("scoring", done / len(part))
        if job.stop.asked:
            raise Interrupted(f"stopped while scoring; go on with: resume {job.folder.path}")
    if job.world > 1:
        of_ranks: list[Any] = [None] * job.world
        dist.all_gather_object(of_ranks, found)
        found = sorted((one for part in of_ranks for one in part), key=lambda one: one["image_id"])
    return average_precision(root, found, job.folder.path) if job.rank == 0 else {}


def pictures(model: nn.Module, held_out: CocoImages, classes: Sequence[str]) -> list[tuple[str, Image.Image]]:
    """Draw truth and prediction of the first validation images."""
    model.eval()
    device, made = next(model.parameters()).device, []
    for index in range(min(N_PICTURES, len(held_out))):
        image, truth = held_out[index, index]
        with torch.no_grad():
            found = model([image.to(device)])[0]
        found = {name: t[found["scores"] >= 0.3].cpu() for name, t in found.items()}
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        left = _draw(pixels, truth, truth["masks"].bool(), classes)
        right = _draw(pixels, found, found["masks"][:, 0] > 0.5, classes, found["scores"].tolist())
        name = held_out.images[index]["file_name"]
        made.append((f"{name}; predictions above a score of 0.3", side_by_side([left, right])))
    return made


def _draw(
    pixels: np.ndarray, objects: Target, masks: Tensor, classes: Sequence[str], scores: list[float] | None = None
) -> Image.Image:
    labels = (objects["labels"] - 1).tolist()
    return draw_objects(pixels, objects["boxes"].numpy(), labels, classes, scores=scores, masks=masks.numpy())
