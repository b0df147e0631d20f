"""Write scenes as a VOCdevkit: VOC2007 for classification and detection, VOC2012 for segmentation as well."""

from pathlib import Path

import numpy as np
from PIL import Image

from ._draw_scenes import Scene
from ._scene_files import each_scene, map_of, save_image
from ._shapes import SHAPES_CLASS_NAMES

VOC_NAMES = [name.replace(" ", "-") for name in SHAPES_CLASS_NAMES]  # tools split the names of class files at "_"
_EASY = 0.25  # an object whose box is shorter than this share of the image height, on both sides, is difficult
_OBJECT = """  <object>
    <name>{name}</name>
    <pose>Unspecified</pose>
    <truncated>0</truncated>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>
"""
_ANNOTATION = """<annotation>
  <folder>{year}</folder>
  <filename>{image}.jpg</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  <segmented>{segmented}</segmented>
{objects}</annotation>
"""
_Present = dict[str, dict[int, int]]  # image -> label -> 1, or 0 if all objects of the class are difficult


def write_voc(folder: Path, n_train: int, n_val: int, seed: int, size: int) -> None:
    """Write n_train and n_val scenes per year; no scene is in both years.

    Of the training images of VOC2012, the first half (rounded up) has masks in VOC itself. The others stand for the
    images that only SBD has masks of. SegmentationClassAug holds the masks of all training images.
    """
    own, sbd = "SegmentationClass", "SegmentationClassAug"
    n_own = (n_train + 1) // 2

    year = folder / "VOC2007"
    ids = [f"{number:06}" for number in range(1, n_train + n_val + 1)]
    trainval = _write_scenes(year, ids[:n_train], [], "train", 0, seed, size)
    test = _write_scenes(year, ids[n_train:], [], "val", 0, seed, size)
    _write_class_lists(year, {"trainval": trainval, "test": test})

    year = folder / "VOC2012"
    ids = [f"2012_{number:06}" for number in range(1, n_train + n_val + 1)]
    train = _write_scenes(year, ids[:n_own], [own, sbd], "train", n_train, seed, size)
    only_sbd = _write_scenes(year, ids[n_own:n_train], [sbd], "train", n_train + n_own, seed, size)
    val = _write_scenes(year, ids[n_train:], [own], "val", n_val, seed, size)
    trainaug = train | only_sbd
    _write_class_lists(year, {"train": trainaug, "val": val, "trainval": trainaug | val})
    lists = year / "ImageSets" / "Segmentation"
    lists.mkdir()
    for name, present in (("train", train), ("aug", only_sbd), ("trainaug", trainaug), ("val", val)):
        _write_list(lists / f"{name}.txt", present)


def _write_scenes(
    year: Path, ids: list[str], masks: list[str], split: str, first: int, seed: int, size: int
) -> _Present:
    """Write images and annotations of scenes from index `first` on, and their masks into each folder of `masks`."""
    images, annotations = year / "JPEGImages", year / "Annotations"
    for folder in (images, annotations, *(year / name for name in masks)):
        folder.mkdir(parents=True, exist_ok=True)
    present = {}
    for image, scene in zip(ids, each_scene(seed, split, range(first, first + len(ids)), size), strict=True):
        save_image(scene.image, images / f"{image}.jpg")
        segmented = int("SegmentationClass" in masks)
        text, present[image] = _annotation(scene, year=year.name, image=image, segmented=segmented)
        (annotations / f"{image}.xml").write_text(text)
        for name in masks:
            _save_palette(map_of(scene, (scene.labels + 1).tolist(), 0, 255), year / name / f"{image}.png")
    return present


def _annotation(scene: Scene, **head: str | int) -> tuple[str, dict[int, int]]:
    _, height, width = scene.image.shape
    objects = ""
    present: dict[int, int] = {}
    for label, (x1, y1, x2, y2) in zip(scene.labels.tolist(), scene.boxes.tolist(), strict=True):
        difficult = max(x2 - x1, y2 - y1) < _EASY * height
        # VOC counts pixels from 1 and includes both ends.
        objects += _OBJECT.format(x1 + 1, y1 + 1, x2, y2, name=VOC_NAMES[label], difficult=int(difficult))
        present[label] = max(present.get(label, 0), int(not difficult))
    return _ANNOTATION.format(width=width, height=height, objects=objects, **head), present


def _write_class_lists(year: Path, splits: dict[str, _Present]) -> None:
    lists = year / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, images in splits.items():
        _write_list(lists / f"{split}.txt", images)
        for label, name in enumerate(VOC_NAMES):
            lines = (f"{image} {present.get(label, -1):2}\n" for image, present in images.items())
            (lists / f"{name}_{split}.txt").write_text("".join(lines))


def _write_list(file: Path, images: _Present) -> None:
    file.write_text("".join(f"{image}\n" for image in images))


def _save_palette(labels: np.ndarray, path: Path) -> None:
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(voc_palette())
    image.save(path)


def voc_palette() -> bytes:
    """Return VOC's RGB palette for labels 0 to 255: bits c, c + 3, c + 6 of a label are the top bits of channel c."""
    channels = [[label >> channel for channel in range(3)] for label in range(256)]
    return bytes(sum((c >> 3 * k & 1) << 7 - k for k in range(3)) for rgb in channels for c in rgb)
