"""The folder of VOC12aug: its check and its lists."""

from __future__ import annotations

from pathlib import Path

from steady_runs import BadInput

TITLE = "VOC12aug, FCN R50-d8, 512x512, 20k iterations"
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = Path("ImageSets") / "Segmentation"
GET = "get VOCtrainval_11-May-2012 from host.robots.ox.ac.uk/pascal/VOC"
GET_AUG = (
    "get SBD's benchmark.tgz from www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds and make both with "
    "MMSegmentation's tools/dataset_converters/voc_aug.py"
)


def root(data: Path) -> Path:
    """Return the VOC2012 folder: `data`, or a folder in it. Raise BadInput if there is none."""
    for path in (data, data / "VOC2012", data / "VOCdevkit" / "VOC2012"):
        if (path / LISTS / "train.txt").is_file():
            return path
    raise BadInput(f"--data {data}: no VOC2012/{LISTS}/train.txt; {GET}")


def splits(data: Path) -> dict[str, tuple[list[str], str]]:
    """Return {name: (ids, folder of the masks)} for train, aug and val.

    `aug` holds the images that SBD adds to train: those of aug.txt, or those of trainaug.txt that train.txt lacks.
    """
    lists = root(data) / LISTS
    train, val = _ids(lists / "train.txt"), _ids(lists / "val.txt")
    if (lists / "aug.txt").is_file():
        aug = _ids(lists / "aug.txt")
    elif (lists / "trainaug.txt").is_file():
        aug = [i for i in _ids(lists / "trainaug.txt") if i not in set(train)]
    else:
        raise BadInput(f"{lists}: neither aug.txt nor trainaug.txt, the list of SBD's images; {GET_AUG}")
    if both := set(aug) & set(val):
        raise BadInput(f"{lists}: {min(both)} is in the lists of training and of validation; {GET_AUG}")
    return {
        "train": (train, "SegmentationClass"),
        "aug": (aug, "SegmentationClassAug"),
        "val": (val, "SegmentationClass"),
    }


def check(data: Path) -> list[str]:
    """Return lines that describe the folder. Raise BadInput for the first missing image or mask."""
    place, lines = root(data), []
    for name, (ids, masks) in splits(data).items():
        for i in ids:
            for file in (f"JPEGImages/{i}.jpg", f"{masks}/{i}.png"):
                if not (place / file).is_file():
                    get = GET_AUG if name == "aug" else GET
                    raise BadInput(f"{place}: {LISTS}/{name}.txt lists {i}, and {file} is not there; {get}")
        lines.append(f"VOC2012 {name}: {len(ids):,} images, masks in {masks}")
    return lines


def _ids(path: Path) -> list[str]:
    if not path.is_file():
        raise BadInput(f"{path}: not there; {GET}")
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
