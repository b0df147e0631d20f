"""`export_shapes`: the drawn world as files, in the layouts that benchmark tools read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor

from ._resident import BLOCK
from ._shapes import MIN_SIZE, SHAPES_CLASS_NAMES, draw_shapes

_FOLDER_NAMES = [name.replace(" ", "-") for name in SHAPES_CLASS_NAMES]  # tools cut VOC's class files at "_"
_OBJECT = """  <object>
    <name>{name}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>
"""
_ANNOTATION = """<annotation>
  <folder>VOC2007</folder>
  <filename>{image}.jpg</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>
"""


def export_shapes(
    folder: str | Path,
    layout: Literal["imagenet", "voc"] = "imagenet",
    n_train: int = 1_000,
    n_val: int = 200,
    seed: int = 0,
    size: int = 64,
) -> str:
    """Write the drawn world as JPEG files in ImageNet's or VOC2007's layout; returns the spec that opens it.

    imagenet: train/<class>/ and val/<class>/ with the images of `draw_shapes`, S x S. voc: VOC2007/ with JPEGImages,
    Annotations and the lists of ImageSets/Main, n_train images in trainval and n_val in test; an image is a row of two
    or three drawn ones, and an object in a box under half their size is called difficult. size: S >= 16 pixels. Raises
    ValueError for another layout or an n below 1, FileExistsError if the folder is not empty.
    """
    folder = Path(folder).expanduser()
    if layout not in ("imagenet", "voc"):
        raise ValueError(f"layout must be 'imagenet' or 'voc', got {layout!r}")
    if n_train < 1 or n_val < 1:
        raise ValueError(f"n_train and n_val must be at least 1, got {n_train} and {n_val}")
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty: name a new folder")
    if layout == "imagenet":
        for split, n in (("train", n_train), ("val", n_val)):
            _write_imagenet(folder / split, split, n, seed, size)
        return f"folder:{folder}"
    _write_voc(folder / "VOC2007", "train", "trainval", range(n_train), seed, size)
    _write_voc(folder / "VOC2007", "val", "test", range(n_train, n_train + n_val), seed, size)
    return f"voc07:{folder}"


def _write_imagenet(folder: Path, split: str, n: int, seed: int, size: int) -> None:
    for name in _FOLDER_NAMES:
        (folder / name).mkdir(parents=True)
    for start in range(0, n, BLOCK):
        indices = range(start, min(start + BLOCK, n))
        batch = draw_shapes(seed, split, indices, size)
        for i, image, label in zip(indices, batch.images, batch.labels.tolist(), strict=True):
            _save(image, folder / _FOLDER_NAMES[label] / f"{split}_{i:08}.JPEG")


def _write_voc(year: Path, split: str, name: str, numbers: range, seed: int, size: int) -> None:
    images, annotations, lists = year / "JPEGImages", year / "Annotations", year / "ImageSets" / "Main"
    for folder in (images, annotations, lists):
        folder.mkdir(parents=True, exist_ok=True)
    ids, columns = [], [""] * len(_FOLDER_NAMES)
    for number, (tiles, labels, boxes) in zip(numbers, _scenes(seed, split, len(numbers), size), strict=True):
        image = f"{number + 1:06}"
        _save(row := tiles.permute(1, 2, 0, 3).flatten(2), images / f"{image}.jpg")  # (3, S, n S)
        objects = ""
        present: dict[int, int] = {}
        for place, (label, box) in enumerate(zip(labels.tolist(), boxes.tolist(), strict=True)):
            x1, y1, x2, y2 = box
            difficult = max(x2 - x1, y2 - y1) * 2 < size
            corners = (x1 + place * size + 1, y1 + 1, x2 + place * size, y2)  # VOC counts from 1, both ends included
            objects += _OBJECT.format(*corners, name=_FOLDER_NAMES[label], difficult=int(difficult))
            present[label] = max(present.get(label, 0), 0 if difficult else 1)
        _, height, width = row.shape
        text = _ANNOTATION.format(image=image, width=width, height=height, objects=objects)
        (annotations / f"{image}.xml").write_text(text)
        ids.append(image)
        for label in range(len(columns)):
            columns[label] += f"{image} {present.get(label, -1):2}\n"
    (lists / f"{name}.txt").write_text("".join(f"{image}\n" for image in ids))
    for label, column in enumerate(columns):
        (lists / f"{_FOLDER_NAMES[label]}_{name}.txt").write_text(column)


def _scenes(seed: int, split: str, n: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels and boxes of each scene: two drawn images, or three where i is odd; none is in two scenes."""
    for start in range(0, n, BLOCK):
        scenes = [range(3 * i, 3 * i + 2 + i % 2) for i in range(start, min(start + BLOCK, n))]
        batch, sizes = draw_shapes(seed, split, [k for scene in scenes for k in scene], size), [*map(len, scenes)]
        parts = (part.split(sizes) for part in (batch.images, batch.labels, batch.boxes))
        yield from zip(*parts, strict=True)


def _save(image: Tensor, path: Path) -> None:
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path, quality=95)
