"""Images with class maps, and the random augmentation of the published protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from steady_runs import BadInput
from steady_runs.benchmark.plain import Key
from steady_runs.keys import generator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

IGNORE = 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATIOS = (0.5, 2.0)
MOST_OF_ONE_CLASS, REDRAWS = 0.75, 10


@dataclass(frozen=True)
class Sizes:
    """Image sizes in pixels.

    Attributes:
        long: Limit of the longer side; images are resized to the largest size within both limits.
        short: Limit of the shorter side.
        crop: Side of a training crop.
        window: Side of the sliding window in scoring; None scores whole images.
        apart: Distance between windows.
    """

    long: int
    short: int
    crop: int
    window: int | None = None
    apart: int | None = None


class Maps(Dataset[tuple[Tensor, Tensor]]):
    """Images with class maps, indexed by keys.

    A sample is (image, labels): float32 (3, h, w), normalised, and int64 (h, w), 255 where pixels are ignored.

    Args:
        files: (image, mask) files.
        n_classes: Number of classes.
        sizes: Image sizes.
        seed: For training: random square crops, as a function of seed and position in the stream. None for scoring: the
            image is resized, the labels keep their size.
    """

    def __init__(self, files: Sequence[tuple[Path, Path]], n_classes: int, sizes: Sizes, seed: int | None = None):
        self.files, self.n_classes, self.sizes, self.seed = files, n_classes, sizes, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        place, index = key
        image, labels = self.read(index)
        if self.seed is None:
            return normalise(resize(image, *self.scored_size(image))), labels.long()
        g = generator(self.seed, "image", place)
        ratio = uniform(*RATIOS, g)
        size = fit(image.shape[-2:], int(self.sizes.long * ratio), int(self.sizes.short * ratio))
        image, labels = random_crop(resize(image, *size), nearest(labels, *size), self.sizes.crop, g)
        if torch.rand((), generator=g) < 0.5:
            image, labels = image.flip(-1), labels.flip(-1)
        image = normalise(photometric_distortion(image, g))
        right, below = (self.sizes.crop - side for side in (image.shape[-1], image.shape[-2]))
        return F.pad(image, (0, right, 0, below)), F.pad(labels, (0, right, 0, below), value=IGNORE).long()

    def scored_size(self, image: Tensor) -> tuple[int, int]:
        return fit(image.shape[-2:], self.sizes.long, self.sizes.short)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Read an image, float32 (3, H, W) in [0, 1], and its mask, uint8 (H, W).

        Raises:
            BadInput: If a file cannot be read, or the mask has an id that is neither a class nor 255.
        """
        path, mask = self.files[index]
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error}); get it again") from None
        try:
            with Image.open(mask) as labels:
                ids = np.array(labels)
        except OSError as error:
            raise BadInput(f"{mask}: cannot be read ({error}); get it again") from None
        if ids.shape != pixels.shape[:2]:
            raise BadInput(f"{mask}: {ids.shape}, and {path.name} is {pixels.shape[:2]}; one id a pixel is needed")
        unknown = ids[(ids >= self.n_classes) & (ids != IGNORE)]
        if len(unknown):
            known = f"ids are 0 to {self.n_classes - 1}, and {IGNORE} for what is ignored"
            raise BadInput(f"{mask}: a mask holds id {unknown[0]}; {known}")
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, torch.from_numpy(ids.astype(np.uint8))


def fit(size: Sequence[int], long: int, short: int) -> tuple[int, int]:
    """Return the largest (height, width) within the two limits that keeps the aspect ratio of `size`."""
    factor = min(long / max(size), short / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize(image: Tensor, height: int, width: int, *, align_corners: bool = False) -> Tensor:
    return F.interpolate(image[None], (height, width), mode="bilinear", align_corners=align_corners)[0]


def nearest(labels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(labels[None, None], (height, width), mode="nearest")[0, 0]


def normalise(image: Tensor) -> Tensor:
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def uniform(low: float, high: float, g: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def random_crop(image: Tensor, labels: Tensor, side: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crop a random square, clipped to the image.

    It is drawn again, up to ten times, while one class covers three quarters of its labelled pixels or more.
    """
    height, width = labels.shape
    for _ in range(1 + REDRAWS):
        top, left = (int(torch.randint(max(0, n - side) + 1, (), generator=g)) for n in (height, width))
        crop = labels[top : top + side, left : left + side]
        counts = torch.bincount(crop[crop != IGNORE])
        if (counts > 0).sum() > 1 and counts.max() < MOST_OF_ONE_CLASS * counts.sum():
            break
    return image[:, top : top + side, left : left + side], crop


def photometric_distortion(image: Tensor, g: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue, each with probability 0.5 (Liu et al. 2016, arXiv:1512.02325).

    Contrast is a factor and comes second or last, as in MMSegmentation. The image is (3, H, W) in [0, 1], and stays so.
    """

    def chosen() -> bool:
        return bool(torch.rand((), generator=g) < 0.5)

    def contrast(image: Tensor) -> Tensor:
        return (image * uniform(0.5, 1.5, g)).clamp(0, 1) if chosen() else image

    if chosen():
        image = (image + uniform(-32, 32, g) / 255).clamp(0, 1)
    contrast_last = chosen()
    if not contrast_last:
        image = contrast(image)
    if chosen():
        image = saturate(image, uniform(0.5, 1.5, g))
    if chosen():
        image = tv.adjust_hue(image, uniform(-18, 18, g) / 180)  # OpenCV's hue has 180 units per turn
    return contrast(image) if contrast_last else image


def saturate(image: Tensor, factor: float) -> Tensor:
    """Multiply the saturation of HSV by `factor`, to at most 1. Hue and value stay the same."""
    value, least = image.amax(0), image.amin(0)
    most = value / (value - least).clamp(min=1e-6)  # factor at which the smallest channel becomes 0
    return (value - (value - image) * most.clamp(max=factor)).clamp(min=0)
