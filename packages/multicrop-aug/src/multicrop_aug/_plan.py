"""The plan: everything random about a batch of crops, as small tensors that every backend obeys."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ._move import moved
from ._operations import CropGroup


@dataclass(frozen=True, eq=False)
class CropPlan:
    """What `Recipe.draw` returns and `render` obeys.

    `plan[v]` is the plan of crop v alone, `len(plan)` the number of crops.

    Attributes:
        groups: One group per crop size.
        sizes: (B, 2) int64, height and width of the images it was drawn for.
        order: Operations between crop and normalisation, without those that the recipe never draws.
        mean: Mean per channel RGB, of pixels in [0, 1].
        std: Standard deviation per channel RGB.
        solarise_threshold: Pixels at or above it are inverted by solarisation.
    """

    groups: tuple[CropGroup, ...]
    sizes: Tensor
    order: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    solarise_threshold: float

    @property
    def n_crops(self) -> int:
        """V, crops per image."""
        return sum(group.n_crops for group in self.groups)

    def __len__(self) -> int:
        return self.n_crops

    def __getitem__(self, crop: int) -> "CropPlan":
        if not 0 <= crop < self.n_crops:
            raise IndexError(f"crop must be in [0, {self.n_crops}), got {crop}")
        first = 0
        for group in self.groups:
            if crop < first + group.n_crops:
                break
            first += group.n_crops
        v = crop - first
        return replace(self, groups=(group.apply(lambda t: t[v : v + 1]),))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CropPlan":
        """Return the plan on another device. All its tensors cross in one buffer, of which they are views.

        Args:
            device: Target device.
            non_blocking: Do not wait for a copy from the CPU to a GPU. Work on the same stream sees the whole plan.
        """
        return self.with_tensors(moved(self.tensors(), device, non_blocking))

    def tensors(self) -> list[Tensor]:
        """Return every tensor of the plan: sizes, then those of each group in order."""
        return [self.sizes, *(tensor for group in self.groups for tensor in group.tensors().values())]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "CropPlan":
        """Return the plan with other tensors, given in the order of `tensors`."""
        sizes, *rest = tensors
        each = iter(rest)
        return replace(self, groups=tuple(group.apply(lambda _: next(each)) for group in self.groups), sizes=sizes)

    def state_dict(self) -> dict[str, Any]:
        """Return the plan as tensors and plain values, for `torch.save` and `torch.load(weights_only=True)`."""
        groups = [{f.name: getattr(group, f.name) for f in fields(group)} for group in self.groups]
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"groups": groups}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "CropPlan":
        """Return the plan that `state_dict` wrote."""
        return cls(**(state | {"groups": tuple(CropGroup(**group) for group in state["groups"])}))
