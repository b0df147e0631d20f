"""The benchmarks with MMDetection: adapts a config to the backbone, the data and the options, then trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmdet.apis  # noqa: F401  # registers MMDetection's models, data sets and transforms
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from sobel_resnet import FeatureMaps, ResNet, architecture_of, load_backbone
from steady_runs import BadInput
from steady_runs.benchmark import Job, Outcome, Weights, draw_objects, read_weights, side_by_side
from steady_runs.benchmark.mmengine import Schedule, apply_options, run_mmengine

from detect.coco import title as coco_title
from detect.data import SMALL, open_data
from detect.settings import Coco, Voc

CONFIGS = Path(__file__).parent / "configs"
CONFIG = {
    ("voc", "c4"): "faster_rcnn_r50_c4_24k_voc0712.py",
    ("coco", "fpn"): "mask_rcnn_r50_fpn_coco.py",
    ("coco", "c4"): "mask_rcnn_r50_c4_coco.py",
}
VOC_SCHEDULE = Schedule(24_000, batch=16, warmup=100, milestones=(18_000, 22_000), evaluate_every=2_000)
COCO_STEPS = {"1x": (12, (8, 11)), "2x": (24, (16, 22))}  # epochs; after which of them the learning rate falls tenfold
N_PICTURES = 6


def run(job: Job[Voc] | Job[Coco]) -> Outcome:
    """Train and score. Raises BadInput, TrainingFailed, Interrupted."""
    options: Voc | Coco = job.options
    small = options.data == "shapes"
    root, classes, lines = open_data(job)
    weights = read_weights(job, load_backbone, ResNet, architecture_of)
    job.progress.say(f"weights    {weights.what}\n           {weights.file or 'no file'}")
    job.progress.say("data       " + "\n           ".join(lines))

    config = Config.fromfile(CONFIGS / CONFIG[options.command, options.model])
    fit_backbone(config, weights, options.seed)
    fit_data(config, root, classes, options.command)
    changes = scale_images(config, options.scale or 1.0)
    if small:
        changes += make_small(config)
    changes += apply_options(config, job, schedule(config, options))
    if options.command == "coco":
        config.val_evaluator.outfile_prefix = str(job.folder.path / "predictions")

    trained = run_mmengine(config, job, to_columns, lambda runner: say_matched(runner, weights, job))
    return Outcome(
        metrics=trained.metrics,
        untrained=trained.untrained,
        facts={
            "weights": weights.what,
            "weights_file": weights.source,
            "data": "; ".join(lines),
            "engine": "mmdet",
            "model": CONFIG[options.command, options.model].removesuffix(".py"),
            "changes": changes,
        },
        pictures=pictures(trained.runner, classes) if job.rank == 0 else [],
        title=coco_title(options.model, options.schedule) if isinstance(options, Coco) else "",
    )


def schedule(config: Config, options: Voc | Coco) -> Schedule:
    """The published schedule. COCO's epochs become iterations of 16 images."""
    if isinstance(options, Voc):
        return VOC_SCHEDULE
    init_default_scope("mmdet")
    images = len(DATASETS.build(config.train_dataloader.dataset))  # without those that hold no object
    epoch = -(-images // 16)
    epochs, falls = COCO_STEPS[options.schedule]
    return Schedule(
        epochs * epoch, batch=16, warmup=1000, milestones=tuple(e * epoch for e in falls), evaluate_every=epoch
    )


def fit_backbone(config: Config, weights: Weights, seed: int) -> None:
    """Set the backbone's architecture in the config, with the channels and strides of neck and heads."""
    model, network = config.model, weights.backbone
    maps = FeatureMaps(network, model.backbone.maps)
    file = {"seed": seed, "weights": weights.file}
    architecture = architecture_of(network)
    model.backbone.update(architecture | file)
    if "neck" in model:
        strides = [*maps.strides, 2 * maps.strides[-1]]
        model.neck.in_channels = list(maps.channels)
        model.rpn_head.anchor_generator.strides = strides
        for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
            extractor.featmap_strides = strides[:4]
            extractor.finest_scale = 14 * strides[0]  # regions up to 56 pixels are pooled at stride 4
        return
    model.roi_head.shared_head.update({key: architecture[key] for key in ("arch", "stem", "width")} | file)
    channels, stride = maps.channels[0], maps.strides[0]
    model.rpn_head.in_channels = model.rpn_head.feat_channels = channels
    model.rpn_head.anchor_generator.strides = [stride]
    model.roi_head.bbox_roi_extractor.update(out_channels=channels, featmap_strides=[stride])
    model.roi_head.bbox_head.in_channels = network.num_features
    if model.roi_head.get("mask_head"):
        model.roi_head.mask_head.in_channels = network.num_features


def fit_data(config: Config, root: Path, classes: tuple[str, ...], protocol: str) -> None:
    """Set the data folder and the classes in the config."""
    train, val = config.train_dataloader.dataset, config.val_dataloader.dataset
    for dataset in [*train.get("datasets", [train]), val]:
        dataset.data_root = f"{root}/"
        dataset.metainfo = dict(classes=classes)
    if protocol == "coco":
        config.val_evaluator.ann_file = str(root / "annotations" / "instances_val2017.json")
    for head in (config.model.roi_head.bbox_head, config.model.roi_head.get("mask_head")):
        if head is not None:
            head.num_classes = len(classes)


def scale_images(config: Config, scale: float) -> list[str]:
    """Multiply all image sizes by `scale`; return the changes to the protocol."""
    if scale == 1:
        return []
    train, val = config.train_dataloader.dataset, config.val_dataloader.dataset
    for dataset in [*train.get("datasets", [train]), val]:
        for step in dataset.pipeline:
            if step.type == "RandomChoiceResize":
                step.scales = [tuple(round(side * scale) for side in pair) for pair in step.scales]
            elif step.type == "Resize":
                step.scale = tuple(round(side * scale) for side in step.scale)
        if dataset.get("filter_cfg"):
            dataset.filter_cfg.min_size = round(dataset.filter_cfg.min_size * scale)
    return [f"image sizes x {scale:g}"]


def make_small(config: Config) -> list[str]:
    """Use fewer proposals, regions and channels, for drawn images; return the changes to the protocol."""
    train, test = config.model.train_cfg, config.model.test_cfg
    train.rcnn.sampler.num = SMALL["samples"]
    for proposals in (train.rpn_proposal, test.rpn):
        proposals.update(nms_pre=4 * SMALL["proposals"], max_per_img=SMALL["proposals"])
    test.rcnn.max_per_img = SMALL["found"]
    changes = [
        f"{SMALL['samples']} regions per image from {SMALL['proposals']} proposals; at most {SMALL['found']} detections"
    ]
    if "neck" in config.model:
        channels, roi = SMALL["channels"], config.model.roi_head
        config.model.neck.out_channels = channels
        config.model.rpn_head.update(in_channels=channels, feat_channels=channels)
        roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = channels
        roi.bbox_head.update(in_channels=channels, conv_out_channels=channels, fc_out_channels=4 * channels)
        roi.mask_head.update(in_channels=channels, conv_out_channels=channels)
        changes.append(f"{channels} channels in pyramid and heads")
    return changes


def to_columns(metrics: dict[str, Any]) -> dict[str, float]:
    """Convert MMDetection's metrics to the columns of the published tables, in percent."""
    if "pascal_voc/mAP" in metrics:
        return {"AP50": 100 * float(metrics["pascal_voc/mAP"])}
    names = {"AP": "mAP", "AP50": "mAP_50", "AP75": "mAP_75"}
    kinds = {"box": "bbox", "mask": "segm"}
    return {
        f"{kind} {column}": 100 * float(metrics.get(f"coco/{key}_{name}", 0.0))
        for kind, key in kinds.items()
        for column, name in names.items()
    }


def say_matched(runner: Runner, weights: Weights, job: Job[Any]) -> None:
    """Check that every tensor of the backbone is in the model, and print how many. Raises BadInput otherwise."""
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    inside, counts = model.state_dict(), {"backbone": 0, "RoI head's layer4": 0}
    for name, tensor in weights.backbone.state_dict().items():
        places = {"backbone": f"backbone.{name}", "RoI head's layer4": f"roi_head.shared_head.{name}"}
        place = next((p for p, key in places.items() if key in inside), None)
        if place is None or not torch.equal(inside[places[place]].cpu(), tensor):
            raise BadInput(
                f"{weights.file}: {name} is not in the detector; does the file hold a backbone of this depth?"
            )
        counts[place] += 1
    job.progress.say("matched    " + ", ".join(f"{place} {n}" for place, n in counts.items() if n) + " tensors, all")


def pictures(runner: Runner, classes: tuple[str, ...]) -> list[tuple[str, Image.Image]]:
    """Draw truth and prediction of the first validation images."""
    runner.model.eval()
    found = []
    for data in runner.val_dataloader:
        with torch.no_grad():
            sample = (runner.model.module if hasattr(runner.model, "module") else runner.model).test_step(data)[0]
        image = np.asarray(Image.open(sample.img_path).convert("RGB"))
        truth, said = sample.gt_instances.cpu(), sample.pred_instances.cpu()
        said = said[said.scores >= 0.3]
        boxes = truth.bboxes.tensor if hasattr(truth.bboxes, "tensor") else truth.bboxes
        masks = truth.masks.to_ndarray().astype(bool) if "masks" in truth else None
        left = draw_objects(image, boxes.numpy(), truth.labels.tolist(), classes, masks=masks)
        masks = said.masks.numpy() if "masks" in said else None
        right = draw_objects(
            image, said.bboxes.numpy(), said.labels.tolist(), classes, scores=said.scores.tolist(), masks=masks
        )
        found.append((f"{Path(sample.img_path).name}; predictions above a score of 0.3", side_by_side([left, right])))
        if len(found) == N_PICTURES:
            break
    return found
