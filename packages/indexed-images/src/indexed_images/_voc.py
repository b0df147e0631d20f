"""The source `voc07:`, Pascal VOC as a multi-label set (Everingham et al. 2010, doi:10.1007/s11263-009-0275-4)."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ._listed import absent, require_images, root_folder
from ._source import FileSource, Request

_CONTENT = "VOC2007/ with JPEGImages, Annotations and ImageSets/Main"


def open_voc07(request: Request) -> FileSource:
    """Open `voc07:PATH`, a VOCdevkit or one year of it.

    Labels are int64 (N, C): 1 present, 0 absent, -1 if all objects of the class are difficult. Rows are sorted by image
    id, columns by class name. The splits are trainval and test in VOC2007, and train and val in years whose test labels
    were never published. Labels come from ImageSets/Main/<class>_<split>.txt, or from Annotations without those files.
    """
    year = _year(root_folder(request, "voc07", _CONTENT))
    lists = year / "ImageSets" / "Main"
    train, held_out = _splits(year)
    split = train if request.split == "train" else held_out
    file = lists / f"{split}.txt"
    if not file.is_file():
        archive = f"VOC{split}_06-Nov-2007.tar" if train == "trainval" else "its archive"
        raise absent(request, f"voc07: no list {str(file)!r}: unpack {archive} there")
    ids = _ids(file)
    if not ids:
        raise ValueError(f"{file} names no image: expected one image id per line")
    # Collect the classes of both splits, so that a class missing from this split does not shift the columns.
    names = {f.name.removesuffix(f"_{s}.txt") for s in (train, held_out) for f in lists.glob(f"*_{s}.txt")}
    if names:
        class_names = sorted(names)
        labels = np.stack([_class_column(lists / f"{name}_{split}.txt", ids) for name in class_names], axis=1)
    else:
        labels, class_names = _from_annotations(year, ids, lists / f"{held_out if split == train else train}.txt")
    paths = [str(year / "JPEGImages" / f"{image}.jpg") for image in ids]
    require_images(paths, file, "unpack JPEGImages there")
    return FileSource(paths, labels, class_names, request.reading)


def _year(root: Path) -> Path:
    """Return the folder of one year: PATH itself, its VOC2007, or the only year it holds."""
    for kit in (root, root / "VOCdevkit"):
        if (kit / "ImageSets").is_dir():
            return kit
        years = sorted(folder.parent for folder in kit.glob("VOC*/ImageSets"))
        for year in years:
            if year.name == "VOC2007" or len(years) == 1:
                return year
        if years:
            found = ", ".join(year.name for year in years)
            raise FileNotFoundError(f"voc07: {str(kit)!r} holds {found} but no VOC2007: name one, voc07:PATH/VOC2012")
    raise FileNotFoundError(f"voc07: {str(root)!r} is not a VOCdevkit: expected {_CONTENT}")


def _splits(year: Path) -> tuple[str, str]:
    """Return the names of the training and held-out lists; never trainval with val, because trainval contains val."""
    another = re.fullmatch(r"VOC20\d\d", year.name) and year.name != "VOC2007"
    if year.name == "VOC2007" or (not another and (year / "ImageSets" / "Main" / "test.txt").is_file()):
        return "trainval", "test"
    return "train", "val"


def _ids(file: Path) -> list[str]:
    return sorted(line.split()[0] for line in file.read_text().splitlines() if line.strip())


def _class_column(file: Path, ids: list[str]) -> np.ndarray:
    """Read a class file as int64 (N,), where VOC writes 1 present, 0 only difficult, -1 absent."""
    if not file.is_file():
        raise FileNotFoundError(f"voc07: no class file {str(file)!r}, but others are there: unpack them all")
    meaning = {"1": 1, "-1": 0, "0": -1}
    found = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        words = line.split()
        if words and (len(words) != 2 or words[1] not in meaning):
            raise ValueError(f"{file}, line {number}: expected `image_id 1|0|-1`, got {line!r}")
        if words:
            found[words[0]] = meaning[words[1]]
    unlabelled = [image for image in ids if image not in found]
    if unlabelled:
        raise ValueError(f"{file}: {len(unlabelled)} of {len(ids)} images have no line, the first is {unlabelled[0]!r}")
    return np.array([found[image] for image in ids], dtype=np.int64)


def _from_annotations(year: Path, ids: list[str], other: Path) -> tuple[np.ndarray, list[str]]:
    objects = [_objects(year / "Annotations" / f"{image}.xml") for image in ids]
    others = _ids(other) if other.is_file() else []
    elsewhere = [_objects(year / "Annotations" / f"{image}.xml") for image in others]
    class_names = sorted({name for found in (*objects, *elsewhere) for name in found})
    labels = [[found.get(name, 0) for name in class_names] for found in objects]
    return np.array(labels, dtype=np.int64).reshape(len(ids), len(class_names)), class_names


def _objects(file: Path) -> dict[str, int]:
    """Read the classes in an annotation: 1, or -1 if all objects of the class are difficult."""
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"voc07: no class files in ImageSets/Main and no {str(file)!r}: unpack both") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"{file} is not an annotation: {error}") from error
    found: dict[str, int] = {}
    for item in root.findall("object"):  # not .iter, because the parts of a person also have names
        name, difficult = item.findtext("name", "").strip(), item.findtext("difficult", "0").strip() == "1"
        found[name] = max(found.get(name, -1), -1 if difficult else 1)
    return found
