"""The sources `places205:` (Zhou et al. 2014) and `inat18:` (Van Horn et al. 2018, arXiv:1707.06642)."""

import json
import os
from typing import Any

import numpy as np

from ._listed import class_indices, first_file, read_pairs, require_images, root_folder
from ._source import FileSource, Request

_N_PLACES = 205
_PLACES_IMAGES = ("images256", "data/vision/torralba/deeplearning/images256")  # the archive unpacks to the second


def open_places205(request: Request) -> FileSource:
    """Open `places205:PATH`: train_places205.csv and val_places205.csv, with images256/ beside them.

    The lists hold `path label` or `path,label`, labels from 0 to 204. Images come in the order of the list, and a class
    is named after its folder.
    """
    root = root_folder(request, "places205", "train_places205.csv, val_places205.csv and images256/")
    name = f"{'train' if request.split == 'train' else 'val'}_places205.csv"
    file = first_file(request, root, (name, f"trainvalsplit_places205/{name}"), "places205")
    names, found = read_pairs(file)
    labels = class_indices(found, _N_PLACES, file)
    images = next((root / folder for folder in _PLACES_IMAGES if (root / folder).is_dir()), root)
    paths = [f"{images}/{name.lstrip('/')}" for name in names]
    require_images(paths, file, f"unpack the images to {root / _PLACES_IMAGES[0]}")
    class_names = [str(k) for k in range(_N_PLACES)]
    for k, first in zip(*np.unique(labels, return_index=True), strict=True):
        class_names[k] = _place(names[first])
    return FileSource(paths, labels, class_names, request.reading)


def _place(path: str) -> str:
    """Return the class name of a path: church/outdoor for `/c/church/outdoor/x.jpg`."""
    parts = [part for part in path.split("/")[:-1] if part]
    return "/".join(parts[1:] if len(parts) > 1 and len(parts[0]) == 1 else parts)


def open_inat18(request: Request) -> FileSource:
    """Open `inat18:PATH`: train2018.json and val2018.json in COCO's form, and the images they name (train_val2018/...).

    Labels are the ranks of the category ids, 0 to 8141. Images come in the order of the file.
    """
    root = root_folder(request, "inat18", "train2018.json, val2018.json and train_val2018/")
    name = f"{'train' if request.split == 'train' else 'val'}2018.json"
    file = first_file(request, root, (name, f"annotations/{name}"), "inat18")
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes())
        category = {a["image_id"]: a["category_id"] for a in content["annotations"]}
        n_annotations = len(content["annotations"])
        images = [(image["id"], image["file_name"]) for image in content["images"]]
        class_name = {c["id"]: str(c["name"]) for c in content["categories"]}
        ids = sorted(class_name)
        index = {c: k for k, c in enumerate(ids)}
        labels = [index[category[image]] for image, _ in images]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not in COCO's form: expected images, annotations and categories that agree, got "
            f"{type(error).__name__}: {error}"
        ) from error
    if n_annotations != len(images):
        raise ValueError(f"{file}: {n_annotations} annotations of {len(images)} images: expected one for each")
    paths = [os.path.join(root, name) for _, name in images]
    require_images(paths, file, f"unpack train_val2018.tar.gz in {root}")
    return FileSource(paths, np.array(labels, dtype=np.int64), [class_name[c] for c in ids], request.reading)
