"""`export_shapes`: drawn images as files, in the layouts that benchmark tools read."""

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
    """Write drawn images in the layout of a benchmark set, so that tools for that set run without a download.

    The README describes the layouts. Everything is written to a temporary folder that is renamed at the end, so
    `folder` is complete or does not change.

    Args:
        folder: Where to write; it must not exist or be empty.
        layout: "imagenet" writes images of `draw_shapes` into class folders. "voc" (VOC2007 and VOC2012), "coco" and
            "cityscapes" write scenes of `draw_scenes`.
        n_train: Number of training images; in "voc" per year.
        n_val: Number of held-out images; in "voc" per year.
        seed: Seed of the images.
        size: Height in pixels; 64 by default for "imagenet" (at least 16), 128 for scenes (at least 32). Images of
            "imagenet" are square, the width of scenes is 4/3 of the height.

    Returns:
        The spec that opens the images with `open_images`, or the path of the folder if no source reads the layout.

    Raises:
        ValueError: If the layout is unknown, or a number or the size is too small.
        FileExistsError: If the folder is not empty.

    Example:
        ```python
        images = open_images(export_shapes("world", "voc", n_train=100, n_val=50))
        ```
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
