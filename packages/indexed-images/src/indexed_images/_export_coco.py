"""Write scenes in COCO's layout: one JSON file per split with boxes and masks of all instances."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ._draw_scenes import Scene
from ._outlines import outlines, run_lengths, signed_area
from ._scene_files import each_scene, save_image
from ._shapes import SHAPES_CLASS_NAMES

CATEGORY_IDS = (1, 2, 3, 5, 7, 8, 13, 17, 18, 44, 62, 90)  # with gaps as in COCO, where an id is not an index
_HEAD = {
    "info": {
        "description": "Drawn scenes of textured shapes in the layout of COCO 2017",
        "url": "",
        "version": "1.0",
        "year": 2017,
        "contributor": "indexed-images",
        "date_created": "2017/01/01",
    },
    "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
    "categories": [
        {"id": number, "name": name, "supercategory": name.split()[1]}
        for number, name in zip(CATEGORY_IDS, SHAPES_CLASS_NAMES, strict=True)
    ],
}


def write_coco(folder: Path, n_train: int, n_val: int, seed: int, size: int) -> None:
    """Write train2017/, val2017/ and annotations/instances_{train,val}2017.json."""
    (folder / "annotations").mkdir()
    for split, first, n in (("train", 1, n_train), ("val", n_train + 1, n_val)):
        name = f"{split}2017"
        (folder / name).mkdir()
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for number, scene in enumerate(each_scene(seed, split, range(n), size), first):
            _, height, width = scene.image.shape
            file = f"{number:012}.jpg"
            save_image(scene.image, folder / name / file)
            images.append({"id": number, "license": 1, "file_name": file, "height": height, "width": width})
            objects += _annotations(scene, number, len(objects) + 1)
        text = json.dumps(_HEAD | {"images": images, "annotations": objects})
        (folder / "annotations" / f"instances_{name}.json").write_text(text)


def _annotations(scene: Scene, image: int, first: int) -> list[dict[str, Any]]:
    found = []
    for k, (label, box) in enumerate(zip(scene.labels.tolist(), scene.boxes.tolist(), strict=True)):
        x1, y1, x2, y2 = box
        mask = scene.masks[k].numpy()
        found.append(
            {
                "id": first + k,
                "image_id": image,
                "category_id": CATEGORY_IDS[label],
                "segmentation": _segmentation(mask),
                "area": int(mask.sum()),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
            }
        )
    return found


def _segmentation(mask: np.ndarray) -> list[list[int]] | dict[str, list[int]]:
    """Return one polygon per part, or run lengths if there is a hole, which polygons cannot represent."""
    polygons = outlines(mask)
    if all(signed_area(polygon) > 0 for polygon in polygons):
        return polygons
    return {"counts": run_lengths(mask), "size": list(mask.shape)}
