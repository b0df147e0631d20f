"""The benchmarks with plain torch instead of MMSegmentation. Nothing needs to be compiled.

The results list under "changes" where it differs from the published protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from sobel_resnet import ResNet, architecture_of, load_backbone
from steady_runs import BadInput, Interrupted
from steady_runs.benchmark import Job, Outcome, draw_map, read_weights, side_by_side
from steady_runs.benchmark.plain import Metrics, Part, Plan, batches, machine, main_rank_first, make_plan, train
from torch import Tensor, nn

from segment import cityscapes, voc
from segment.data import open_data
from segment.settings import SegmentSettings
from segment.torchvision_data import IGNORE, Maps, Sizes
from segment.torchvision_model import FCN, fcn_loss, predict

LR, LEAST_LR, POWER, MOMENTUM, WEIGHT_DECAY = 0.01, 1e-4, 0.9, 0.9, 5e-4


@dataclass(frozen=True)
class Published:
    """The published figures of a protocol.

    Attributes:
        iterations: Of training.
        batch: Images per iteration.
        every: Iterations between scores.
        sizes: Image sizes.
        align_corners: How logits are resized.
    """

    iterations: int
    batch: int
    every: int
    sizes: Sizes
    align_corners: bool


PUBLISHED = {
    "voc": Published(20_000, 16, 2_000, Sizes(2048, 512, crop=512), align_corners=False),
    "cityscapes": Published(40_000, 8, 4_000, Sizes(2049, 1025, crop=769, window=769, apart=513), align_corners=True),
}
DIFFERENCES = (
    "the published heads in plain torch, not torchvision's FCNHead, which has one convolution",
    "images resized and distorted as floats, not rounded to 8 bits after each step",
)
IOU = "IoU of "
N_PICTURES = 6


def run(job: Job[SegmentSettings]) -> Outcome:
    """Train and score. Raises BadInput, TrainingFailed, Interrupted."""
    options = job.options
    published, scale = PUBLISHED[options.command], options.scale or 1.0
    with machine(job) as device:
        root, classes, lines = main_rank_first(job, lambda: open_data(job))
        weights = read_weights(job, load_backbone, ResNet, architecture_of)
        job.progress.say(f"weights    {weights.what}\n           {weights.file or 'no file'}")
        job.progress.say("data       " + "\n           ".join(lines))

        sizes = scale_sizes(published.sizes, scale)
        images = Maps(files(root, options.command, "train"), len(classes), sizes, options.seed)
        held_out = Maps(files(root, options.command, "val"), len(classes), sizes)
        if not len(images) or not len(held_out):
            raise BadInput(f"--data {root}: the list of training or of validation holds no image")
        plan = make_plan(job, iterations=published.iterations, batch=published.batch, lr=LR, every=published.every)

        model: nn.Module = FCN(weights.backbone, len(classes), align_corners=published.align_corners, seed=options.seed)
        if job.world > 1 and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.to(device)
        optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

        def loss_of(network: nn.Module, batch: list[tuple[Tensor, Tensor]]) -> Tensor:
            pixels, labels = (torch.stack(part).to(device, non_blocking=True) for part in zip(*batch, strict=True))
            logits, auxiliary = network(pixels)
            return fcn_loss(logits, auxiliary, labels, align_corners=published.align_corners)

        trained = train(
            job,
            plan,
            model,
            optimizer,
            learning_rate(plan),
            images,
            loss_of,
            lambda network: score(network, held_out, classes, job),
        )
        changes = [*DIFFERENCES, *([f"image sizes x {scale:g}"] if scale != 1 else []), *plan.changes]
        if job.world > 1 and device.type == "cpu":
            changes.append("batch norm of each process by itself, on CPUs")
        if job.rank > 0:
            return Outcome({})
        return Outcome(
            metrics={"mIoU": trained.metrics["mIoU"]},
            untrained=None if trained.untrained is None else {"mIoU": trained.untrained["mIoU"]},
            facts={
                "weights": weights.what,
                "weights_file": weights.source,
                "data": "; ".join(lines),
                "engine": "torchvision",
                "model": f"fcn_d8_{sizes.crop}x{sizes.crop}_{options.command}",
                "changes": changes,
                "pixel_accuracy": trained.metrics["aAcc"],
            },
            classes={k.removeprefix(IOU): v for k, v in trained.metrics.items() if k.startswith(IOU)},
            pictures=pictures(model, held_out, classes),
            title=f"{(voc if options.command == 'voc' else cityscapes).TITLE}, by torchvision",
        )


def files(root: Path, protocol: str, split: str) -> list[tuple[Path, Path]]:
    """Return (image, mask) files of a split. VOC's training images include those that SBD adds."""
    if protocol == "cityscapes":
        return cityscapes.pairs(root, split)
    lists = voc.splits(root)
    return [
        (root / "JPEGImages" / f"{i}.jpg", root / masks / f"{i}.png")
        for ids, masks in ([lists["train"], lists["aug"]] if split == "train" else [lists["val"]])
        for i in ids
    ]


def scale_sizes(sizes: Sizes, scale: float) -> Sizes:
    """Multiply all sizes by `scale`. Crops stay a multiple of the output stride, or one more with aligned corners."""
    if scale == 1:
        return sizes
    crop = max(8, 8 * round(sizes.crop // 8 * scale)) + sizes.crop % 8
    window = crop if sizes.window is not None else None
    return Sizes(
        round(sizes.long * scale), round(sizes.short * scale), crop, window, -(-2 * crop // 3) if window else None
    )


def learning_rate(plan: Plan) -> Callable[[int], float]:
    """Learning rate of each step: polynomial decay to 1e-4."""

    def at(step: int) -> float:
        rate: float = (plan.lr - LEAST_LR) * (1 - step / plan.iterations) ** POWER + LEAST_LR
        return rate

    return at


def score(model: nn.Module, held_out: Maps, classes: Sequence[str], job: Job[SegmentSettings]) -> Metrics:
    """mIoU, pixel accuracy (aAcc) and IoU of each class in percent, over all pixels of all ranks."""
    assert isinstance(model, FCN)
    part, device = Part(len(held_out), job), next(model.parameters()).device
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64, device=device)
    for done, [(image, labels)] in enumerate(batches(held_out, job, part), 1):
        labels = labels.to(device)
        confusion += count(predict(model, image.to(device), labels.shape, held_out.sizes), labels, len(classes))
        job.progress.doing("scoring", done / len(part))
        if job.stop.asked:
            raise Interrupted(f"stopped while scoring; go on with: resume {job.folder.path}")
    if job.world > 1:
        dist.all_reduce(confusion)
    return figures(confusion.cpu(), classes)


def count(predicted: Tensor, labels: Tensor, n: int) -> Tensor:
    """Confusion matrix (n, n) int64: rows are true classes, columns are predicted ones. Ignored pixels are left out."""
    counted = labels != IGNORE
    return torch.bincount(labels[counted] * n + predicted[counted], minlength=n * n).reshape(n, n)


def figures(confusion: Tensor, classes: Sequence[str]) -> Metrics:
    """Metrics in percent. A class that occurs in neither truth nor prediction is left out of the mean."""
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    found = {f"{IOU}{name}": float(100 * h / u) for name, h, u in zip(classes, hits, union, strict=True) if u}
    mean = sum(found.values()) / max(1, len(found))
    return {"mIoU": mean, "aAcc": float(100 * hits.sum() / confusion.sum().clamp(min=1)), **found}


def pictures(model: nn.Module, held_out: Maps, classes: Sequence[str]) -> list[tuple[str, Image.Image]]:
    """Draw truth and prediction of the first validation images."""
    assert isinstance(model, FCN)
    model.eval()
    device, made = next(model.parameters()).device, []
    for index in range(min(N_PICTURES, len(held_out))):
        image, labels = held_out[index, index]
        with torch.no_grad():
            found = predict(model, image.to(device), labels.shape, held_out.sizes).cpu()
        pixels = (held_out.read(index)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        plain = 0 if classes[0] == "background" else None
        maps = [draw_map(pixels, one.numpy(), plain=plain) for one in (labels, found)]
        made.append((held_out.files[index][0].name, side_by_side(maps)))
    return made
