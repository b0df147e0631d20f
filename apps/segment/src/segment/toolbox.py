"""The benchmarks with MMSegmentation: adapts a config to the backbone, the data and the options, then trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmengine.config.utils
import mmseg.apis  # noqa: F401  # registers MMSegmentation's models, data sets and transforms
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from PIL import Image
from sobel_resnet import FeatureMaps, ResNet, architecture_of, load_backbone
from steady_runs import BadInput
from steady_runs.benchmark import Job, Outcome, Weights, draw_map, read_weights, side_by_side
from steady_runs.benchmark.mmengine import Schedule, apply_options, run_mmengine

from segment import voc
from segment.cityscapes import IMAGE, MASK
from segment.data import open_data
from segment.settings import SegmentSettings

# MMEngine looks up "mmseg::" in a config under the name of the original distribution; the maintained one is called
# onedl-mmsegmentation, so look up the module instead
mmengine.config.utils.MODULE2PACKAGE["mmseg"] = "mmseg"

CONFIGS = Path(__file__).parent / "configs"
CONFIG = {"voc": "fcn_r50_d8_512x512_20k_voc12aug.py", "cityscapes": "fcn_r50_d8_769x769_40k_cityscapes.py"}
SCHEDULE = {
    "voc": Schedule(20_000, batch=16, evaluate_every=2_000),
    "cityscapes": Schedule(40_000, batch=8, evaluate_every=4_000),
}
N_PICTURES = 6


def run(job: Job[SegmentSettings]) -> Outcome:
    """Train and score. Raises BadInput, TrainingFailed, Interrupted."""
    options, drawn = job.options, job.options.data == "shapes"
    root, classes, lines = open_data(job)
    weights = read_weights(job, load_backbone, ResNet, architecture_of)
    job.progress.say(f"weights    {weights.what}\n           {weights.file or 'no file'}")
    job.progress.say("data       " + "\n           ".join(lines))

    config = Config.fromfile(CONFIGS / CONFIG[options.command])
    fit_backbone(config, weights, options.seed)
    fit_data(config, root, classes, drawn=drawn)
    if options.command == "voc":
        fit_lists(config, job, root)
    changes = scale_images(config, options.scale or 1.0)
    changes += apply_options(config, job, SCHEDULE[options.command])

    trained = run_mmengine(config, job, to_columns, lambda runner: say_matched(runner, weights, job))
    prefix = "IoU of "
    return Outcome(
        metrics={"mIoU": trained.metrics["mIoU"]},
        untrained=None if trained.untrained is None else {"mIoU": trained.untrained["mIoU"]},
        facts={
            "weights": weights.what,
            "weights_file": weights.source,
            "data": "; ".join(lines),
            "engine": "mmseg",
            "model": CONFIG[options.command].removesuffix(".py"),
            "changes": changes,
            "pixel_accuracy": trained.metrics["aAcc"],
        },
        classes={k.removeprefix(prefix): v for k, v in trained.metrics.items() if k.startswith(prefix)},
        pictures=pictures(trained.runner, classes) if job.rank == 0 else [],
    )


def fit_backbone(config: Config, weights: Weights, seed: int) -> None:
    """Set the backbone's architecture in the config, with the channels of the heads."""
    model, network = config.model, weights.backbone
    maps = FeatureMaps(network, model.backbone.maps, model.backbone.output_stride)
    model.backbone.update(architecture_of(network) | {"seed": seed, "weights": weights.file})
    # heads have a quarter of their input's channels, as published for ResNet-50: 512 of 2048 and 256 of 1024
    model.auxiliary_head.update(in_channels=maps.channels[0], channels=maps.channels[0] // 4)
    model.decode_head.update(in_channels=maps.channels[1], channels=maps.channels[1] // 4)


def fit_data(config: Config, root: Path, classes: tuple[str, ...], *, drawn: bool) -> None:
    """Set the data folder and the classes in the config, and add the check of label ids."""
    train, val = config.train_dataloader.dataset, config.val_dataloader.dataset
    for dataset in [*train.get("datasets", [train]), val]:
        dataset.data_root = str(root)
        load = next(i for i, step in enumerate(dataset.pipeline) if step.type == "LoadAnnotations")
        dataset.pipeline.insert(load + 1, ConfigDict(type="CheckLabels", n_classes=len(classes)))
        if drawn:  # drawn images have classes of their own
            suffixes = (".jpg", ".png") if "ann_file" in dataset else (IMAGE, MASK)
            palette = [[17 * k % 256, 71 * k % 256, 131 * k % 256] for k in range(len(classes))]
            dataset.update(
                type="BaseSegDataset",
                metainfo=dict(classes=classes, palette=palette),
                img_suffix=suffixes[0],
                seg_map_suffix=suffixes[1],
            )
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.num_classes = len(classes)


def fit_lists(config: Config, job: Job[SegmentSettings], root: Path) -> None:
    """Write the list of SBD's images into the run folder in the form that MMSegmentation reads."""
    path = job.folder.path / "aug.txt"
    path.write_text("".join(f"{i}\n" for i in voc.splits(root)["aug"][0]))
    config.train_dataloader.dataset.datasets[1].ann_file = str(path.resolve())


def scale_images(config: Config, scale: float) -> list[str]:
    """Multiply all image sizes by `scale`; return the changes to the protocol.

    Crops stay a multiple of the output stride of 8, or one more where corners are aligned.
    """
    if scale == 1:
        return []
    corner = config.size[0] % 8

    def crop(side: int) -> int:
        return max(8, 8 * round(side // 8 * scale)) + corner

    train, val = config.train_dataloader.dataset, config.val_dataloader.dataset
    for dataset in [*train.get("datasets", [train]), val]:
        for step in dataset.pipeline:
            if step.type in ("RandomResize", "Resize"):
                step.scale = tuple(round(side * scale) for side in step.scale)
            elif step.type == "RandomCrop":
                step.crop_size = tuple(crop(side) for side in step.crop_size)
            elif step.type == "Pad":
                step.size = tuple(crop(side) for side in step.size)
    preprocessor, test = config.model.data_preprocessor, config.model.test_cfg
    preprocessor.size = tuple(crop(side) for side in preprocessor.size)
    if test.mode == "slide":
        test.crop_size = tuple(crop(side) for side in test.crop_size)
        test.stride = tuple(-(-2 * side // 3) for side in test.crop_size)
    return [f"image sizes x {scale:g}"]


def to_columns(metrics: dict[str, Any]) -> dict[str, float]:
    """Select mIoU, pixel accuracy and the IoU of each class."""
    return {name: float(value) for name, value in metrics.items() if name in ("mIoU", "aAcc") or name.startswith("IoU")}


def say_matched(runner: Runner, weights: Weights, job: Job[Any]) -> None:
    """Check that every tensor of the backbone is in the model, and print how many. Raises BadInput otherwise."""
    inside = (runner.model.module if hasattr(runner.model, "module") else runner.model).state_dict()
    wanted = weights.backbone.state_dict()
    for name, tensor in wanted.items():
        if not torch.equal(inside.get(f"backbone.{name}", tensor.new_zeros(0)).cpu(), tensor):
            raise BadInput(
                f"{weights.file}: {name} is not in the network; does the file hold a backbone of this depth?"
            )
    job.progress.say(f"matched    {len(wanted)} tensors, all")


def pictures(runner: Runner, classes: tuple[str, ...]) -> list[tuple[str, Image.Image]]:
    """Draw truth and prediction of the first validation images."""
    runner.model.eval()
    found = []
    for data in runner.val_dataloader:
        with torch.no_grad():
            sample = (runner.model.module if hasattr(runner.model, "module") else runner.model).test_step(data)[0]
        image = np.asarray(Image.open(sample.img_path).convert("RGB"))
        truth, said = sample.gt_sem_seg.data[0].cpu().numpy(), sample.pred_sem_seg.data[0].cpu().numpy()
        plain = 0 if classes[0] == "background" else None
        both = [draw_map(image, labels, plain=plain) for labels in (truth, said)]
        found.append((Path(sample.img_path).name, side_by_side(both)))
        if len(found) == N_PICTURES:
            break
    return found
