"""The source `imagenet:`, the 1,000 classes of ILSVRC 2012 (Russakovsky et al. 2015, arXiv:1409.0575)."""

import os
import re
from pathlib import Path

import numpy as np

from ._decode import EXTENSIONS
from ._labels import encode_names
from ._listed import absent, class_indices, read_pairs, root_folder
from ._reading import Reading
from ._source import FileSource, Request

_N_CLASSES = 1_000
_VAL_LISTS = ("val_labels.txt", "val.txt", "meta/val.txt")


def open_imagenet(request: Request) -> FileSource:
    """Open `imagenet:PATH`: train/ and val/ with a folder per class; the sorted wnids are the classes.

    Images may be missing, classes may not. A val/ without class folders needs PATH/val_labels.txt, PATH/val.txt or
    PATH/meta/val.txt with `name label` per line; labels are wnids or indices from 0.
    """
    root = root_folder(request, "imagenet", "train/ and val/, 1,000 class folders each")
    split = "train" if request.split == "train" else "val"
    if not (root / split).is_dir():
        raise absent(request, f"imagenet: no folder {split}/ in {str(root)!r}, only {_content(root)}")
    wnids = _wnids(root / split)
    if split == "val" and not wnids and (flat := _images(root / "val")):
        return _open_flat(root, flat, request.reading)
    if missing := _what_is_missing(root, split, wnids):
        raise FileNotFoundError(f"imagenet: {missing}; for another set of classes, write folder:{root}")
    names = [_images(root / split / wnid) for wnid in wnids]
    paths = [os.path.join(root, split, wnid, name) for wnid, found in zip(wnids, names, strict=True) for name in found]
    if not paths:
        raise FileNotFoundError(f"imagenet: no image in the class folders of {str(root / split)!r}: unpack them there")
    labels = np.repeat(np.arange(_N_CLASSES), [len(found) for found in names])
    return FileSource(paths, labels, wnids, request.reading)


def _open_flat(root: Path, images: list[str], reading: Reading) -> FileSource:
    file = next((root / name for name in _VAL_LISTS if (root / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"imagenet: {str(root / 'val')!r} holds {len(images):,} images without class folders: sort them into "
            f"val/<wnid>/, or write {root / _VAL_LISTS[0]} with one `{images[0]} label` per line, a wnid or 0 to 999"
        )
    label_of = dict(zip(*_by_name(file), strict=True))
    unlabelled = [name for name in images if name not in label_of]
    if unlabelled:
        raise ValueError(
            f"{file}: {len(unlabelled):,} of {len(images):,} images have no line, the first is {unlabelled[0]!r}"
        )
    labels = [label_of[name] for name in images]
    paths = [os.path.join(root, "val", name) for name in images]
    trained = _wnids(root / "train")
    if labels[0].isdecimal():
        class_names = trained if len(trained) == _N_CLASSES else None
        return FileSource(paths, class_indices(labels, _N_CLASSES, file), class_names, reading)
    vocabulary = {*label_of.values(), *trained}
    if len(vocabulary) != _N_CLASSES:
        raise ValueError(f"{file} and train/ name {len(vocabulary):,} classes together, expected 1,000 wnids")
    found = encode_names(labels, vocabulary)
    return FileSource(paths, found.labels, found.class_names, reading)


def _by_name(file: Path) -> tuple[list[str], list[str]]:
    paths, labels = read_pairs(file)
    return [path.rpartition("/")[2] for path in paths], labels


def _what_is_missing(root: Path, split: str, wnids: list[str]) -> str:
    """Describe the class folders that are missing from a split; empty if there are all 1,000."""
    other = "val" if split == "train" else "train"
    elsewhere = sorted(set(_wnids(root / other)) - set(wnids))
    if len(wnids) == _N_CLASSES:
        return f"{other}/ holds classes that {split}/ lacks, {_few(elsewhere)}" if elsewhere else ""
    what = f"{split}/ in {str(root)!r} holds {len(wnids):,} of 1,000 class folders (n01440764, ...)"
    if elsewhere:
        what += f", without {_few(elsewhere)} of {other}/"
    if archives := [name for name in os.listdir(root / split) if name.endswith(".tar")]:
        what += f" and {len(archives):,} archives: unpack each into a folder of its name"
    return what


def _wnids(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if re.fullmatch(r"n\d{8}", entry.name) and entry.is_dir())


def _images(folder: Path) -> list[str]:
    return sorted(n for n in os.listdir(folder) if n.lower().endswith(EXTENSIONS) and not n.startswith("."))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _content(folder: Path) -> str:
    return _few(sorted(os.listdir(folder))) or "nothing"
