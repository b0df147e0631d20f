"""Write scenes in Cityscapes' layout (Cordts et al. 2016, arXiv:1604.01685): label, training and instance ids."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ._draw_scenes import Scene
from ._outlines import outlines, signed_area
from ._scene_files import each_scene, map_of, save_image

# Cityscapes' labels by id, with their training ids; 255 is ignored in training and scoring.
CITYSCAPES_LABELS = (
    ("unlabeled", 255),
    ("ego vehicle", 255),
    ("rectification border", 255),
    ("out of roi", 255),
    ("static", 255),
    ("dynamic", 255),
    ("ground", 255),
    ("road", 0),
    ("sidewalk", 1),
    ("parking", 255),
    ("rail track", 255),
    ("building", 2),
    ("wall", 3),
    ("fence", 4),
    ("guard rail", 255),
    ("bridge", 255),
    ("tunnel", 255),
    ("pole", 5),
    ("polegroup", 255),
    ("traffic light", 6),
    ("traffic sign", 7),
    ("vegetation", 8),
    ("terrain", 9),
    ("sky", 10),
    ("person", 11),
    ("rider", 12),
    ("car", 13),
    ("truck", 14),
    ("bus", 15),
    ("caravan", 255),
    ("trailer", 255),
    ("train", 16),
    ("motorcycle", 17),
    ("bicycle", 18),
)
_FIRST_COUNTED = 24  # person; this label and all later ones have instances
_VOID = 0
_ROAD, *_OF_SHAPES = (number for number, (_, train_id) in enumerate(CITYSCAPES_LABELS) if train_id != 255)
_CITIES = {"train": ("discheim", "ringstadt", "kreuzau"), "val": ("dreieck",)}


def write_cityscapes(folder: Path, n_train: int, n_val: int, seed: int, size: int) -> None:
    """Write leftImg8bit/ and gtFine/.

    The ground is road and shape k has training id k + 1. A border of one pixel around objects is unlabeled.
    """
    for split, n in (("train", n_train), ("val", n_val)):
        cities = _CITIES[split]
        for number, scene in enumerate(each_scene(seed, split, range(n), size)):
            sequence, city = divmod(number, len(cities))
            stem = f"{cities[city]}_{sequence:06}_000019"
            images, truth = (folder / part / split / cities[city] for part in ("leftImg8bit", "gtFine"))
            images.mkdir(parents=True, exist_ok=True)
            truth.mkdir(parents=True, exist_ok=True)
            save_image(scene.image, images / f"{stem}_leftImg8bit.png")
            _write_truth(scene, truth / f"{stem}_gtFine")


def _write_truth(scene: Scene, stem: Path) -> None:
    labels = [_OF_SHAPES[k] for k in scene.labels.tolist()]
    instances = [
        label * 1000 + labels[:k].count(label) if label >= _FIRST_COUNTED else label for k, label in enumerate(labels)
    ]
    label_map = map_of(scene, labels, _ROAD, _VOID)
    train_ids = np.array([train_id for _, train_id in CITYSCAPES_LABELS])
    for name, values, dtype in (
        ("labelIds", label_map, np.uint8),
        ("labelTrainIds", train_ids[label_map], np.uint8),
        ("instanceIds", map_of(scene, instances, _ROAD, _VOID), np.uint16),
    ):
        Image.fromarray(values.astype(dtype)).save(f"{stem}_{name}.png")
    Path(f"{stem}_polygons.json").write_text(json.dumps(_polygons(scene, labels)))


def _polygons(scene: Scene, labels: list[int]) -> dict[str, object]:
    """Return outlines to paint in their order: a hole is an outline of road on top. The void border is left out."""
    _, height, width = scene.image.shape
    found = [(_ROAD, [0, 0, width, 0, width, height, 0, height])]
    for mask, label in zip(scene.masks.numpy(), labels, strict=True):
        found += [(label if signed_area(outline) > 0 else _ROAD, outline) for outline in outlines(mask)]
    found.sort(key=lambda item: -abs(signed_area(item[1])))  # an outline inside another one is smaller
    objects = [
        {"label": CITYSCAPES_LABELS[label][0], "polygon": list(zip(outline[::2], outline[1::2], strict=True))}
        for label, outline in found
    ]
    return {"imgHeight": height, "imgWidth": width, "objects": objects}
