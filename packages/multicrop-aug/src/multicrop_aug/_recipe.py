"""A recipe: an augmentation as data. `Recipe.draw` turns it into a plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ._distortions import Blur, Jitter, check_probability, keep_tuples
from ._draw import draw_groups
from ._laws import GroupLaw, laws_of
from ._operations import OPERATIONS, TABLE
from ._plan import CropPlan
from ._specs import CentreSpec, CropSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NO_JITTER, NO_BLUR = Jitter(), Blur(p=0.0)


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
        settings = [partial(self.setting, spec) for spec in self.specs]
        return {operation.name for operation in TABLE if any(map(operation.is_on, settings))}

    def draw(self, indices: Tensor, epoch: int, sizes: Tensor | Sequence[int], seed: int) -> CropPlan:
        """The plan of a batch, a pure function of (seed, epoch, sample index, crop): not of batch, order or worker.

        It is drawn on the CPU, which takes less time than to start the same work on a GPU: pass indices and sizes that
        lie there, also for images on a GPU (`render` sends the plan over without a wait). Those on a GPU are fetched
        first, which waits for it, and the plan is sent back.

        indices: (B,) int64, positions in the data set. sizes: (B, 2) integers, height and width of each image, or one
        (height, width) for all. seed: any integer. Returns a plan on the device of `indices`. Raises ValueError for
        indices or sizes of another shape or dtype, and for images without pixels.
        """
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise ValueError(f"indices must be (B,) int64, got {tuple(indices.shape)} {indices.dtype}")
        sizes = torch.as_tensor(sizes, dtype=torch.int64).cpu()
        if sizes.shape not in ((2,), (len(indices), 2)):
            raise ValueError(f"sizes must be ({len(indices)}, 2) or (height, width), got {tuple(sizes.shape)}")
        if sizes.numel() and sizes.amin() < 1:
            raise ValueError(f"image sizes must be at least 1 x 1, got {sizes.amin().item()}: drop empty images")
        sizes = sizes.expand(len(indices), 2)
        laws, order = _laws(self)
        groups = draw_groups(laws, indices.cpu(), epoch, sizes, seed)
        plan = CropPlan(groups, sizes, order, self.mean, self.std, self.solarise_threshold)
        return plan if indices.device.type == "cpu" else plan.to(indices.device, non_blocking=True)


def _laws(recipe: Recipe) -> tuple[tuple[GroupLaw, ...], tuple[str, ...]]:
    try:
        return _kept_laws(recipe)
    except TypeError:  # a recipe with lists in place of tuples has no hash
        return _kept_laws.__wrapped__(recipe)


@lru_cache(maxsize=64)
def _kept_laws(recipe: Recipe) -> tuple[tuple[GroupLaw, ...], tuple[str, ...]]:
    """What the recipe draws from, and the operations that it has on, in its order."""
    on = recipe._operations()
    laws = laws_of([(spec, partial(recipe.setting, spec)) for spec in recipe.specs])
    return laws, tuple(name for name in recipe.order if name in on)
