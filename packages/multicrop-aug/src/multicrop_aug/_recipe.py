"""A recipe: an augmentation as data. `Recipe.draw` turns it into a plan."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._distortions import Blur, Jitter, check_probability, keep_tuples
from ._keys import stream_keys, uniform
from ._plan import CropGroup, CropPlan
from ._specs import CentreSpec, CropSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NO_JITTER, NO_BLUR = Jitter(), Blur(p=0.0)
OPERATIONS = ("flip", "rotation", "jitter", "grey", "blur", "solarise")

# Numbers of the random fields after the forty of the boxes (_specs.py). Never renumber: a seed means these numbers.
_FIRST_FIELD, _N_FIELDS = 40, 12
_PERMUTATIONS = torch.tensor(list(itertools.permutations(range(4))), dtype=torch.uint8)  # (24, 4)


@dataclass(frozen=True)
class Recipe:
    """Crops, then the operations of `order`, then normalisation; change one with `dataclasses.replace`.

    flip, grey, solarise: probabilities; a CropSpec with its own flip, jitter, grey, blur or solarise goes before the
    recipe's. rotation_degrees: d draws an angle from [-d, d]. solarise_threshold: pixels at or above it are inverted,
    in [0, 1]. mean, std: of pixels in [0, 1], per channel RGB. order: names of OPERATIONS, each once; one that is on
    must be there.
    """

    specs: tuple[CropSpec | CentreSpec, ...]
    flip: float = 0.5
    rotation_degrees: float = 0.0
    jitter: Jitter = NO_JITTER
    grey: float = 0.0
    blur: Blur = NO_BLUR
    solarise: float = 0.0
    solarise_threshold: float = 128 / 255
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    order: tuple[str, ...] = OPERATIONS

    def __post_init__(self) -> None:
        keep_tuples(self, "specs", "mean", "std", "order")
        if not self.specs:
            raise ValueError("a recipe needs at least one CropSpec, got none")
        for name in ("flip", "grey", "solarise"):
            check_probability(name, getattr(self, name))
        if not self.rotation_degrees >= 0:
            raise ValueError(f"rotation_degrees must be >= 0, got {self.rotation_degrees}")
        if len(set(self.order)) != len(self.order) or not set(self.order) <= set(OPERATIONS):
            raise ValueError(f"order must name each operation at most once, of {OPERATIONS}; got {self.order}")
        missing = sorted(self._operations() - set(self.order))
        if missing:
            raise ValueError(f"{missing} are on but not in order {self.order}: add them, or switch them off")

    @property
    def n_crops(self) -> int:
        """V, crops per image."""
        return sum(spec.n_crops for spec in self.specs)

    def setting(self, spec: CropSpec | CentreSpec, name: str) -> Any:
        """What holds for the crops of `spec`: its own flip, jitter, grey, blur or solarise, else the recipe's."""
        own = getattr(spec, name, None)
        return getattr(self, name) if own is None else own

    def _operations(self) -> set[str]:
        """Names of the operations that some crop may get."""
        on = {"rotation"} if self.rotation_degrees > 0 else set()
        for spec in self.specs:
            jitter = self.setting(spec, "jitter")
            on |= {name for name in ("flip", "grey", "solarise") if self.setting(spec, name) > 0}
            on |= {"jitter"} if jitter.p > 0 and jitter != Jitter(p=jitter.p) else set()
            on |= {"blur"} if self.setting(spec, "blur").p > 0 else set()
        return on

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
        if sizes.device.type == "cpu" and sizes.numel() and sizes.amin() < 1:  # elsewhere asking would wait for it
            raise ValueError(f"image sizes must be at least 1 x 1, got {sizes.amin().item()}: drop empty images")
        sizes = sizes.to(indices.device, non_blocking=True).expand(len(indices), 2)

        if indices.device.type == "cpu":
            from ._cpu_draw import draw_groups  # the same, compiled; numba takes a third of a second to import

            groups = draw_groups(self, indices, epoch, sizes, seed)
        else:
            groups = self._draw_groups(indices, epoch, sizes, seed)
        order = tuple(name for name in self.order if name in self._operations())
        return CropPlan(groups, sizes, order, self.mean, self.std, self.solarise_threshold)

    def _draw_groups(self, indices: Tensor, epoch: int, sizes: Tensor, seed: int) -> tuple[CropGroup, ...]:
        """Neighbouring specs of one size and interpolation share a group; crops are numbered through all of them."""
        groups: list[CropGroup] = []
        first = 0
        for spec in self.specs:
            crops = torch.arange(first, first + spec.n_crops, device=indices.device)
            group = self._draw_group(spec, stream_keys(seed, epoch, indices, crops), sizes)
            if groups and (groups[-1].size, groups[-1].interpolation) == (group.size, group.interpolation):
                groups[-1] = groups[-1].joined(group)
            else:
                groups.append(group)
            first += spec.n_crops
        return tuple(groups)

    def _draw_group(self, spec: CropSpec | CentreSpec, keys: Tensor, sizes: Tensor) -> CropGroup:
        box, resized, offset = spec.place(keys, sizes)
        numbers = torch.arange(_FIRST_FIELD, _FIRST_FIELD + _N_FIELDS, device=keys.device)
        flip, angle, jitter, *factors, order, grey, blur, sigma, solarise = uniform(keys[..., None], numbers).unbind(-1)
        own_jitter, own_blur = self.setting(spec, "jitter"), self.setting(spec, "blur")
        factors = [low + (high - low) * u for (low, high), u in zip(own_jitter.ranges(), factors, strict=True)]
        sigma_low, sigma_high = own_blur.sigma
        return CropGroup(
            size=spec.size,
            box=box,
            resized=resized,
            offset=offset,
            flip=flip < self.setting(spec, "flip"),
            angle=(self.rotation_degrees * (2 * angle - 1)).float(),
            jitter=jitter < own_jitter.p,
            factors=torch.stack(factors, -1).float(),
            jitter_order=_PERMUTATIONS.to(keys.device, non_blocking=True)[(24 * order).long()],
            grey=grey < self.setting(spec, "grey"),
            blur=blur < own_blur.p,
            sigma=(sigma_low + (sigma_high - sigma_low) * sigma).float(),
            solarise=solarise < self.setting(spec, "solarise"),
            interpolation=spec.interpolation,
        )
