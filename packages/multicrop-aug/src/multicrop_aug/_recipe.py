"""A recipe: an augmentation as data. `Recipe.draw` turns it into a plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arrays import as_tensor, to_tensor
from ._draw import draw_groups
from ._laws import GroupLaw, laws_of
from ._operations import OPERATIONS, TABLE
from ._plan import CropPlan
from ._settings import Blur, CentreSpec, CropSpec, Jitter, check_probability, keep_tuples

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NO_JITTER, NO_BLUR = Jitter(), Blur(p=0.0)


@dataclass(frozen=True)
class Recipe:
    """Crops, then the operations of `order`, then normalisation. Change a recipe with `dataclasses.replace`.

    A CropSpec with its own flip, jitter, grey, blur or solarise overrides the recipe's.

    Args:
        specs: Where the crops lie.
        flip: Probability of a horizontal flip.
        rotation_degrees: d draws an angle from [-d, d].
        jitter: Colour jitter.
        grey: Probability of conversion to grey.
        blur: Gaussian blur.
        solarise: Probability of solarisation.
        solarise_threshold: Solarisation inverts pixels at or above it, in [0, 1].
        mean: Mean per channel RGB, of pixels in [0, 1].
        std: Standard deviation per channel RGB.
        order: Names of the operations, each at most once. Every operation that is on must be included.

    Raises:
        ValueError: A value is out of range, or `order` does not fit.

    Example:
        ```python
        recipe = Recipe((CropSpec(224, 2), CropSpec(96, 6, scale=(0.05, 0.14))), grey=0.2, blur=Blur(0.5))
        plan = recipe.draw(indices, epoch=0, sizes=(375, 500), seed=0)
        ```
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
        """Return the value of a setting for the crops of `spec`: the spec's own value if it has one, else the recipe's.

        Args:
            spec: One of `specs`.
            name: A field of Recipe, such as "flip" or "blur".
        """
        own = getattr(spec, name, None)
        return getattr(self, name) if own is None else own

    def _operations(self) -> set[str]:
        """Return the names of the operations that a crop can get."""
        settings = [partial(self.setting, spec) for spec in self.specs]
        return {operation.name for operation in TABLE if any(map(operation.is_on, settings))}

    def draw(
        self, indices: Tensor | np.ndarray, epoch: int, sizes: Tensor | np.ndarray | Sequence[int], seed: int
    ) -> CropPlan:
        """Draw the plan of a batch.

        The plan is a pure function of (seed, epoch, sample index, crop). It does not depend on batch, order or worker.

        The CPU draws it, in less time than it takes to launch the same work on a GPU. Pass indices and sizes that are
        on the CPU, also for images on a GPU: `render` sends the plan over without waiting. Indices and sizes on a GPU
        are fetched first, which waits for the GPU, and the plan is sent back.

        Args:
            indices: (B,) int64, positions in the data set.
            epoch: Any integer.
            sizes: (B, 2) integers, height and width of each image; or one (height, width) for all.
            seed: Any integer.

        Returns:
            The plan, on the device of `indices` (the CPU for NumPy arrays).

        Raises:
            ValueError: indices or sizes have another shape or dtype, or an image has no pixels.

        Example:
            ```python
            plan = swav().draw(torch.arange(64), epoch=3, sizes=(375, 500), seed=0)
            ```
        """
        indices = to_tensor(indices)
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise ValueError(f"indices must be (B,) int64, got {tuple(indices.shape)} {indices.dtype}")
        sizes = torch.as_tensor(as_tensor(sizes), dtype=torch.int64).cpu()
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
    """Return what `_cached_laws` does, also for a recipe that cannot be hashed because it holds lists."""
    try:
        return _cached_laws(recipe)
    except TypeError:
        return _cached_laws.__wrapped__(recipe)


@lru_cache(maxsize=64)
def _cached_laws(recipe: Recipe) -> tuple[tuple[GroupLaw, ...], tuple[str, ...]]:
    """Return the distributions that the recipe draws from, and its operations that are on, in order."""
    on = recipe._operations()
    laws = laws_of([(spec, partial(recipe.setting, spec)) for spec in recipe.specs])
    return laws, tuple(name for name in recipe.order if name in on)
