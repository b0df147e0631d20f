"""The images of a run and the crops of them, as the settings describe them."""

from __future__ import annotations

import math
from typing import Literal

from indexed_images import IndexedImages, NoSuchSplit, open_images
from multicrop_aug import Blur, CropSpec, Jitter, Recipe, evaluation
from steady_runs import BadInput
from torch import Tensor

from pretrain.settings import Data, parse_crops


def open_for_training(settings: Data) -> IndexedImages:
    """Open the train split. Corrupt files are replaced by other images and counted, up to 1 % of the set."""
    return _open(settings, settings.data, "train", "replace", "--data")


def open_for_validation(settings: Data) -> IndexedImages | None:
    """Open `--val`, or else the val split of `--data`; None if there is no such split or it has no labels."""
    if settings.val is not None:
        try:
            images = _open(settings, settings.val, "val", "raise", "--val")
        except NoSuchSplit:
            images = _open(settings, settings.val, "train", "raise", "--val")
        if class_labels(images) is None:
            raise BadInput(
                f"--val {settings.val}: no labels there, one an image, and the kNN score needs them; leave --val out"
            )
        return images
    try:
        images = _open(settings, settings.data, "val", "raise", "--data")
    except NoSuchSplit:
        return None
    return images if class_labels(images) is not None else None


def class_labels(images: IndexedImages) -> Tensor | None:
    """(N,) int64; None if there are no labels, or several for an image."""
    return images.labels if images.labels is not None and images.labels.ndim == 1 else None


def _open(settings: Data, spec: str, split: str, on_corrupt: Literal["raise", "replace"], option: str) -> IndexedImages:
    try:
        return open_images(spec, split, on_corrupt=on_corrupt, download=settings.download)
    except NoSuchSplit:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise BadInput(f"{option} {spec}: {error}") from None


def train_recipe(data: Data) -> Recipe:
    """The training crops and their photometric augmentations."""
    brightness, contrast, saturation, hue = data.jitter
    return Recipe(
        specs=tuple(CropSpec(size, n, scale) for n, size, scale in map(parse_crops, data.crops)),
        # Flipped first. MMSelfSup flips last in SwAV, which gives the same: no other operation but rotation, which
        # SwAV does not use, tells left from right.
        flip=data.flip,
        rotation_degrees=data.rotation,
        jitter=Jitter(brightness, contrast, saturation, hue, p=data.jitter_p),
        grey=data.grey,
        blur=Blur(p=data.blur),
        solarise=data.solarise,
        mean=data.mean,
        std=data.std,
    )


def eval_recipe(data: Data) -> Recipe:
    """The centre crop for features and scores."""
    size = data.eval_size or parse_crops(data.crops[0]).size
    resize = data.eval_resize or (size if size < 96 else math.ceil(size * 8 / 7))
    return evaluation(size, resize=resize, mean=data.mean, std=data.std)
