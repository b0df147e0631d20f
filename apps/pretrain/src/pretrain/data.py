"""The images of a run and the crops of them, as the settings describe them."""

from __future__ import annotations

import math

from indexed_images import IndexedImages, OpenError, TrainAndTest, open_train_and_test
from multicrop_aug import Blur, CropSpec, Jitter, Recipe, evaluation
from steady_runs import BadInput
from torch import Tensor

from pretrain.settings import Data, RunSettings, parse_crops


def open_both(settings: RunSettings) -> TrainAndTest:
    """Open training images, and held-out ones with labels: those of `--val`, or else the val split of `--data`.

    Corrupt training images are replaced by other images and counted, up to 1 % of the set.

    Raises:
        BadInput: If images cannot be opened, or `--val` has no labels.
    """
    try:
        opened = open_train_and_test(
            settings.data,
            settings.val,
            on_corrupt="replace",
            **settings.for_opening(),
        )
    except OpenError as error:
        option = f"--val {settings.val}" if settings.val is not None and error.of_test else f"--data {settings.data}"
        raise BadInput(f"{option}: {error}") from None
    if opened.test is not None and opened.train.labels is None:
        why = ("without labels of the training images there is no kNN score",) if settings.val is not None else ()
        return opened._replace(test=None, remarks=(*opened.remarks, *why))
    if opened.test is None or class_labels(opened.test) is not None:
        return opened
    if settings.val is not None:
        raise BadInput(
            f"--val {settings.val}: no labels there, one an image, and the kNN score needs them; leave --val out"
        )
    return opened._replace(test=None, remarks=(*opened.remarks, f"images of {opened.test.place} have no labels"))


def class_labels(images: IndexedImages) -> Tensor | None:
    """(N,) int64; None if there are no labels, or several for an image."""
    return images.labels if images.labels is not None and images.labels.ndim == 1 else None


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
