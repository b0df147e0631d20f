"""The folder of VOC07+12: its check and its class names."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from steady_runs import BadInput

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = (("VOC2007", "trainval"), ("VOC2012", "trainval"), ("VOC2007", "test"))
GET = (
    "get VOCtrainval_06-Nov-2007, VOCtest_06-Nov-2007 and VOCtrainval_11-May-2012 from host.robots.ox.ac.uk/pascal/VOC"
)


def devkit(data: Path) -> Path:
    """Return the folder of VOC2007 and VOC2012: `data` or its VOCdevkit. Raise BadInput if a list is missing."""
    root = data / "VOCdevkit" if (data / "VOCdevkit").is_dir() else data
    for year, name in LISTS:
        path = root / year / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            raise BadInput(f"--data {data}: no {path.relative_to(root)}; {GET}")
    return root


def check(data: Path) -> list[str]:
    """Return lines that describe the folder. Raise BadInput for the first missing image or annotation."""
    root, lines, classes = devkit(data), [], class_names(data)
    for year, name in LISTS:
        objects: Counter[str] = Counter()
        ids = _ids(root, year, name)
        for i in ids:
            if not (root / year / "JPEGImages" / f"{i}.jpg").is_file():
                raise BadInput(
                    f"{year}/ImageSets/Main/{name}.txt lists {i}, and JPEGImages/{i}.jpg is not there; {GET}"
                )
            objects.update(_objects(root / year / "Annotations" / f"{i}.xml"))
        if unknown := sorted(objects.keys() - set(classes)):
            raise BadInput(f"{year} {name}: objects of class {unknown[0]!r}; known are {', '.join(classes)}")
        lines.append(f"{year} {name}: {len(ids):,} images, {objects.total():,} objects of {len(objects)} classes")
        if missing := [c for c in classes if c not in objects]:
            lines.append(f"  no object of: {', '.join(missing)}")
    return lines


def class_names(data: Path) -> tuple[str, ...]:
    """VOC's twenty classes; the classes of the lists in ImageSets/Main if none of the twenty is among them."""
    lists = devkit(data) / "VOC2007" / "ImageSets" / "Main"
    named = sorted(p.name.removesuffix("_trainval.txt") for p in lists.glob("*_trainval.txt"))
    return tuple(named) if named and not set(named) & set(CLASSES) else CLASSES


def _ids(root: Path, year: str, name: str) -> list[str]:
    text = (root / year / "ImageSets" / "Main" / f"{name}.txt").read_text()
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def _objects(path: Path) -> list[str]:
    try:
        found = ET.parse(path).getroot().iter("object")
        return [name for o in found if (name := o.findtext("name")) is not None]
    except FileNotFoundError:
        raise BadInput(f"{path}: not there, and its image is listed; {GET}") from None
    except ET.ParseError as error:
        raise BadInput(f"{path}: not an XML file ({error}); {GET}") from None
