"""COCO's images, boxes and masks as tensors, and the average precision of detections."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from steady_runs import BadInput
from steady_runs.benchmark.plain import Key
from steady_runs.keys import generator
from torch import Tensor
from torch.utils.data import Dataset

Target = dict[str, Tensor]
FOUND = {"bbox": "box", "segm": "mask"}


class CocoImages(Dataset[tuple[Tensor, Target]]):
    """COCO images with their objects, indexed by keys.

    A sample is (image, target). The image is float32 (3, H, W) in [0, 1]. The target has `boxes` (n, 4) x1 y1 x2 y2 in
    pixels, `labels` (n,) from 1 in the order of the file's categories (0 is the background), `masks` (n, H, W) uint8
    and `image_id`. Crowds are left out.

    Args:
        root: Data folder.
        split: `train` or `val`.
        seed: For training: images are flipped with probability 0.5, as a function of seed and position in the stream,
            and images without objects are left out, as in MMDetection. None for scoring.
    """

    def __init__(self, root: Path, split: str, seed: int | None = None) -> None:
        content = json.loads(annotation_file(root, split).read_text())
        self.folder, self.seed = root / f"{split}2017", seed
        self.labels = {category["id"]: k for k, category in enumerate(content["categories"], 1)}
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        self.objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for one in content["annotations"]:
            if not one.get("iscrowd") and is_inside(one["bbox"], *sizes[one["image_id"]]):
                self.objects[one["image_id"]].append(one)
        self.images = [image for image in content["images"] if seed is None or image["id"] in self.objects]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target]:
        place, index = key
        image, target = self.image(index), self.target(index)
        if self.seed is not None and torch.rand((), generator=generator(self.seed, "flip", place)) < 0.5:
            image, target = flip(image, target)
        return image, target

    def image(self, index: int) -> Tensor:
        path = self.folder / self.images[index]["file_name"]
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error}); get it again") from None
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

    def target(self, index: int) -> Target:
        about = self.images[index]
        height, width, objects = about["height"], about["width"], self.objects.get(about["id"], [])
        boxes = torch.tensor([one["bbox"] for one in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [decode(one["segmentation"], height, width) for one in objects]
        return {
            "boxes": boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height])),
            "labels": torch.tensor([self.labels[one["category_id"]] for one in objects], dtype=torch.int64),
            "masks": torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width, dtype=torch.uint8),
            "image_id": torch.tensor(about["id"]),
        }


def annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


def is_inside(box: Sequence[float], width: int, height: int) -> bool:
    """Whether a box (x, y, width, height) is at least one pixel wide and high and overlaps the image."""
    x, y, w, h = box
    return w >= 1 and h >= 1 and min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode a COCO segmentation (polygons, run lengths or compressed run lengths) to a mask (H, W) uint8."""
    if isinstance(segmentation, list):
        segmentation = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, height, width)
    mask: np.ndarray = rle.decode(segmentation)
    return mask


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror image and target horizontally. Box edges lie between pixels, so x becomes width - x."""
    width = image.shape[-1]
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], 1)
    return image.flip(-1), target | {"boxes": boxes, "masks": target["masks"].flip(-1)}


def entries(target: Target, found: Target, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format. Masks are thresholded at 0.5."""
    boxes = found["boxes"].cpu().clone()
    boxes[:, 2:] -= boxes[:, :2]
    masks = (found["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    made = []
    for k, mask in enumerate(rle.encode(np.asfortranarray(masks))):
        made.append(
            {
                "image_id": int(target["image_id"]),
                "category_id": categories[int(found["labels"][k]) - 1],
                "score": float(found["scores"][k]),
                "bbox": boxes[k].tolist(),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
            }
        )
    return made


def average_precision(root: Path, found: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Write predictions.bbox.json and predictions.segm.json into `folder` and return the six columns in percent.

    pycocotools ignores detections that match crowds. What it prints goes to log.txt.
    """
    metrics = {}
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        truth = COCO(str(annotation_file(root, "val")))
        for kind, name in FOUND.items():
            path, other = folder / f"predictions.{kind}.json", {"bbox": "segmentation", "segm": "bbox"}[kind]
            path.write_text(json.dumps([{k: v for k, v in one.items() if k != other} for one in found]))
            stats = np.zeros(3)
            if found:  # pycocotools cannot load an empty list
                evaluator = COCOeval(truth, truth.loadRes(str(path)), kind)
                evaluator.evaluate()
                evaluator.accumulate()
                evaluator.summarize()
                stats = evaluator.stats
            for column, value in zip(("AP", "AP50", "AP75"), stats, strict=False):
                metrics[f"{name} {column}"] = 100 * float(value)
    return metrics
