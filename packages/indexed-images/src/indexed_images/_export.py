"""`export_shapes`: the drawn world as files, in the layouts that benchmark tools read."""

import os
import tempfile
from pathlib import Path
from typing import Literal

from ._draw_scenes import MIN_SCENE_SIZE
from ._export_cityscapes import write_cityscapes
from ._export_coco import write_coco
from ._export_voc import VOC_NAMES, write_voc
from ._resident import BLOCK
from ._scene_files import save_image
from ._shapes import MIN_SIZE, draw_shapes


def export_shapes(
    folder: str | Path,
    layout: Literal["imagenet", "voc", "coco", "cityscapes"] = "imagenet",
    n_train: int = 1_000,
    n_val: int = 200,
    seed: int = 0,
    size: int | None = None,
) -> str:
    """Write the drawn world in a benchmark set's layout; returns the spec that opens it, or the path if there is none.

    imagenet: train/<class>/ and val/<class>/ with the images of `draw_shapes`, size (64) x size pixels, as JPEG. The
    others hold the scenes of `draw_scenes`, size (128) x 4/3 size pixels, n_train and n_val of them. voc: VOC2007/ and
    VOC2012/, other scenes in each; an object in a box under a quarter of the height is called difficult. coco:
    train2017/, val2017/, annotations/. cityscapes: leftImg8bit/, gtFine/. All is written beside the folder first, then
    renamed: it is there whole, or not at all. Raises ValueError for another layout, an n below 1 or a size below 16
    pixels (scenes: 32), FileExistsError if the folder is not empty.
    """
    if layout not in ("imagenet", "voc", "coco", "cityscapes"):
        raise ValueError(f"layout must be 'imagenet', 'voc', 'coco' or 'cityscapes', got {layout!r}")
    if n_train < 1 or n_val < 1:
        raise ValueError(f"n_train and n_val must be at least 1, got {n_train} and {n_val}")
    default, least = (64, MIN_SIZE) if layout == "imagenet" else (128, MIN_SCENE_SIZE)
    size = default if size is None else size
    if size < least:
        raise ValueError(f"size must be at least {least} pixels in layout {layout!r}, got {size}")
    folder = Path(folder).expanduser()
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty: name a new folder")
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as beside:
        whole = Path(beside) / place.name
        whole.mkdir()
        write = {"imagenet": _write_imagenet, "voc": write_voc, "coco": write_coco, "cityscapes": write_cityscapes}
        write[layout](whole, n_train, n_val, seed, size)
        os.replace(whole, place)
    return {"imagenet": "folder:", "voc": "voc07:"}.get(layout, "") + str(folder)


def _write_imagenet(folder: Path, n_train: int, n_val: int, seed: int, size: int) -> None:
    for split, n in (("train", n_train), ("val", n_val)):
        for name in VOC_NAMES:
            (folder / split / name).mkdir(parents=True)
        for start in range(0, n, BLOCK):
            indices = range(start, min(start + BLOCK, n))
            batch = draw_shapes(seed, split, indices, size)
            for i, image, label in zip(indices, batch.images, batch.labels.tolist(), strict=True):
                save_image(image, folder / split / VOC_NAMES[label] / f"{split}_{i:08}.JPEG")
