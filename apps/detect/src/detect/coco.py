"""The folder of COCO2017: its check and its class names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from steady_runs import BadInput

GET = "get train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org"
N_CLASSES = 80


def title(model: str, schedule: str) -> str:
    """Title of the benchmark with a model (fpn or c4) and a schedule (1x or 2x)."""
    return f"COCO2017, Mask R-CNN R50-{model.upper()}, {schedule}"


def check(data: Path) -> list[str]:
    """Return lines that describe the folder. Raise BadInput for the first missing image, category or mask."""
    found = {split: _read(data, split) for split in ("train", "val")}
    lines, names = [], {}
    for split, content in found.items():
        names[split] = {c["id"]: c["name"] for c in content["categories"]}
        images = {image["id"]: image["file_name"] for image in content["images"]}
        for file in images.values():
            if not (data / f"{split}2017" / file).is_file():
                raise BadInput(f"{_name(split)} lists {file}, and {split}2017/{file} is not there; {GET}")
        objects: Counter[int] = Counter()
        for one in content["annotations"]:
            if one["image_id"] not in images:
                raise BadInput(
                    f"{_name(split)}: annotation {one['id']} is of image {one['image_id']}, which is not listed"
                )
            if one["category_id"] not in names[split]:
                raise BadInput(
                    f"{_name(split)}: annotation {one['id']} is of category {one['category_id']}, which is not listed"
                )
            if not one.get("segmentation"):
                raise BadInput(f"{_name(split)}: annotation {one['id']} has a box and no mask; Mask R-CNN needs both")
            objects[one["category_id"]] += 1
        lines.append(f"{split}2017: {len(images):,} images, {objects.total():,} objects of {len(objects)} categories")
    if list(names["train"].items()) != list(names["val"].items()):  # a label is an index into these lists
        odd = sorted(set(names["train"].values()) ^ set(names["val"].values()))
        what = ", ".join(odd[:3]) or "other ids or another order"
        raise BadInput(f"categories of train and val differ: {what}; both files must list all, in one order")
    if len(names["train"]) != N_CLASSES:
        lines.append(f"{len(names['train'])} categories instead of COCO's {N_CLASSES}; the results are for these")
    return lines


def class_names(data: Path) -> tuple[str, ...]:
    """Names of all categories in the validation file, in its order."""
    return tuple(category["name"] for category in _read(data, "val")["categories"])


def _name(split: str) -> str:
    return f"annotations/instances_{split}2017.json"


def _read(data: Path, split: str) -> dict[str, Any]:
    path = data / _name(split)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        content["images"], content["annotations"], content["categories"]
    except FileNotFoundError:
        raise BadInput(f"--data {data}: no {_name(split)}; {GET}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a COCO annotation file ({error}); {GET}") from None
    return content
