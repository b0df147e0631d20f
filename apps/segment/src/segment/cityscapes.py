"""The folder of Cityscapes: its check and its files."""

from __future__ import annotations

from pathlib import Path

from steady_runs import BadInput

TITLE = "Cityscapes, FCN R50-d8, 769x769, 40k iterations"
CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"
GET = "get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from cityscapes-dataset.com"


def pairs(data: Path, split: str) -> list[tuple[Path, Path]]:
    """Return (image, mask) files of a split, sorted by name. Raise BadInput for the first image without a mask."""
    images = sorted((data / "leftImg8bit" / split).glob(f"*/*{IMAGE}"))
    if not images:
        raise BadInput(f"--data {data}: no leftImg8bit/{split}/<city>/*{IMAGE}; {GET}")
    found = []
    for image in images:
        mask = data / "gtFine" / split / image.parent.name / image.name.replace(IMAGE, MASK)
        if not mask.is_file():
            ids = mask.with_name(mask.name.replace("TrainIds", "Ids"))
            what = "make them with csCreateTrainIdLabelImgs of cityscapesscripts" if ids.is_file() else GET
            raise BadInput(f"{image.name}: no {mask.relative_to(data)}; {what}")
        found.append((image, mask))
    return found


def check(data: Path) -> list[str]:
    """Return lines that describe the folder."""
    lines = []
    for split in ("train", "val"):
        found = pairs(data, split)
        lines.append(f"{split}: {len(found):,} images of {len({i.parent for i, _ in found})} cities")
    return lines
