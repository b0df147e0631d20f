"""A recipe: an augmentation as data. `Recipe.draw` turns it into a plan."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._keys import stream_keys, uniform
from ._plan import CropGroup, CropPlan
from ._specs import CentreSpec, CropSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OPERATIONS = ("flip", "rotation", "jitter", "grey", "blur", "solarise")

# Numbers of the random fields after the forty of the boxes (_specs.py). Never renumber: a seed means these numbers.
_FIRST_FIELD, _N_FIELDS = 40, 12
_PERMUTATIONS = torch.tensor(list(itertools.permutations(range(4))), dtype=torch.uint8)  # (24, 4)


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {p}")


@dataclass(frozen=True)
class Jitter:
    """Colour jitter as torchvision's ColorJitter, its four operations in an order drawn per crop.

    brightness, contrast, saturation: x >= 0 draws a factor from [max(0, 1 - x), 1 + x]. hue: h in [0, 0.5] draws a
    shift from [-h, h] turns. p: probability that a crop is jittered at all.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise ValueError(f"brightness, contrast, saturation must be >= 0 and hue in [0, 0.5], got {self}")
        _check_probability("jitter p", self.p)

    def ranges(self) -> list[tuple[float, float]]:
        """(low, high) of the four factors."""
        strengths = (self.brightness, self.contrast, self.saturation)
        return [(max(0.0, 1.0 - x), 1.0 + x) for x in strengths] + [(-self.hue, self.hue)]


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with probability p; sigma, drawn uniformly, is what PIL's GaussianBlur calls radius (pixels)."""

    p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        _check_probability("blur p", self.p)
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be (low, high) with 0 < low <= high, got {self.sigma}")


@dataclass(frozen=True)
class Recipe:
    """Crops, then the operations of `order`, then normalisation; change one with `dataclasses.replace`.

    flip, grey, solarise: probabilities. rotation_degrees: d draws an angle from [-d, d]. solarise_threshold: pixels at
    or above it are inverted, in [0, 1]. mean, std: of pixels in [0, 1], per channel RGB. order: names of OPERATIONS,
    each once; one that is on must be there.
    """

    specs: tuple[CropSpec | CentreSpec, ...]
    flip: float = 0.5
    rotation_degrees: float = 0.0
    jitter: Jitter = Jitter()
    grey: float = 0.0
    blur: Blur = Blur(p=0.0)
    solarise: float = 0.0
    solarise_threshold: float = 128 / 255
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    order: tuple[str, ...] = OPERATIONS

    def __post_init__(self) -> None:
        if not self.specs:
            raise ValueError("a recipe needs at least one CropSpec, got none")
        for name in ("flip", "grey", "solarise"):
            _check_probability(name, getattr(self, name))
        if not self.rotation_degrees >= 0:
            raise ValueError(f"rotation_degrees must be >= 0, got {self.rotation_degrees}")
        if len(set(self.order)) != len(self.order) or not set(self.order) <= set(OPERATIONS):
            raise ValueError(f"order must name each operation at most once, of {OPERATIONS}; got {self.order}")
        on = {
            "flip": self.flip > 0,
            "rotation": self.rotation_degrees > 0,
            "jitter": self.jitter != Jitter(p=self.jitter.p) and self.jitter.p > 0,
            "grey": self.grey > 0,
            "blur": self.blur.p > 0,
            "solarise": self.solarise > 0,
        }
        missing = [name for name in OPERATIONS if on[name] and name not in self.order]
        if missing:
            raise ValueError(f"{missing} are on but not in order {self.order}: add them, or switch them off")

    @property
    def n_crops(self) -> int:
        """V, crops per image."""
        return sum(spec.n_crops for spec in self.specs)

    def draw(self, indices: Tensor, epoch: int, sizes: Tensor | Sequence[int], seed: int) -> CropPlan:
        """The plan of a batch, a pure function of (seed, epoch, sample index, crop): not of batch, order or worker.

        indices: (B,) int64, positions in the data set. sizes: (B, 2) integers, height and width of each image, or one
        (height, width) for all. seed: any integer. Returns a plan on the device of `indices`.
        """
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise ValueError(f"indices must be (B,) int64, got {tuple(indices.shape)} {indices.dtype}")
        sizes = torch.as_tensor(sizes, dtype=torch.int64)
        if sizes.shape not in ((2,), (len(indices), 2)):
            raise ValueError(f"sizes must be ({len(indices)}, 2) or (height, width), got {tuple(sizes.shape)}")
        if sizes.numel() and sizes.amin() < 1:
            raise ValueError(f"image sizes must be at least 1 x 1, got {sizes.amin().item()}: drop empty images")
        sizes = sizes.to(indices.device).expand(len(indices), 2)

        groups, first = [], 0
        for spec in self.specs:
            crops = torch.arange(first, first + spec.n_crops, device=indices.device)
            groups.append(self._draw_group(spec, stream_keys(seed, epoch, indices, crops), sizes))
            first += spec.n_crops
        return CropPlan(tuple(groups), sizes, self.order, self.mean, self.std, self.solarise_threshold)

    def _draw_group(self, spec: CropSpec | CentreSpec, keys: Tensor, sizes: Tensor) -> CropGroup:
        box, resized, offset = spec.place(keys, sizes)
        numbers = torch.arange(_FIRST_FIELD, _FIRST_FIELD + _N_FIELDS, device=keys.device)
        flip, angle, jitter, *factors, order, grey, blur, sigma, solarise = uniform(keys[..., None], numbers).unbind(-1)
        factors = [low + (high - low) * u for (low, high), u in zip(self.jitter.ranges(), factors, strict=True)]
        sigma_low, sigma_high = self.blur.sigma
        return CropGroup(
            size=spec.size,
            box=box,
            resized=resized,
            offset=offset,
            flip=flip < self.flip,
            angle=(self.rotation_degrees * (2 * angle - 1)).float(),
            jitter=jitter < self.jitter.p,
            factors=torch.stack(factors, -1).float(),
            jitter_order=_PERMUTATIONS.to(keys.device)[(24 * order).long()],
            grey=grey < self.grey,
            blur=blur < self.blur.p,
            sigma=(sigma_low + (sigma_high - sigma_low) * sigma).float(),
            solarise=solarise < self.solarise,
        )
