"""The plan: everything random about a batch of crops, as small tensors that any backend obeys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ._move import moved


@dataclass(frozen=True, eq=False)
class CropGroup:
    """The n crops of one size for B images.

    The box is cut from the image, resized to `resized` (antialiased, with `interpolation`), and the (size, size) window
    at `offset` is the crop; then come the other operations, in the plan's order, where their flag is set. The kernels
    of backends take the tensors in the order in which they stand here.
    """

    size: int
    box: Tensor  # (n, B, 4) int32: top, left, height, width, in pixels of the source image
    resized: Tensor  # (n, B, 2) int32: height, width
    offset: Tensor  # (n, B, 2) int32: top, left, in pixels of the resized box
    flip: Tensor  # (n, B) bool
    angle: Tensor  # (n, B) float32: degrees, counter-clockwise as in torchvision; 0 = not rotated
    jitter: Tensor  # (n, B) bool
    factors: Tensor  # (n, B, 4) float32: brightness, contrast, saturation (>= 0), hue (turns, [-0.5, 0.5])
    jitter_order: Tensor  # (n, B, 4) uint8: which factor comes first, second, ...
    grey: Tensor  # (n, B) bool
    blur: Tensor  # (n, B) bool
    sigma: Tensor  # (n, B) float32: standard deviation of the Gaussian, pixels of the crop
    solarise: Tensor  # (n, B) bool
    interpolation: str = "bilinear"  # or "bicubic" (a = -0.5), clamped to [0, 1]

    @property
    def n_crops(self) -> int:
        """How many crops of this size an image has."""
        return self.flip.shape[0]

    def apply(self, fn: Callable[[Tensor], Tensor]) -> "CropGroup":
        """The same group with `fn` applied to every tensor."""
        tensors = {name: fn(tensor) for name, tensor in self.tensors().items()}
        return CropGroup(size=self.size, interpolation=self.interpolation, **tensors)

    def joined(self, other: "CropGroup") -> "CropGroup":
        """The crops of both, which must be of one size and interpolation."""
        others = other.tensors()
        tensors = {name: torch.cat((tensor, others[name])) for name, tensor in self.tensors().items()}
        return CropGroup(size=self.size, interpolation=self.interpolation, **tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the group by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("size", "interpolation")}


@dataclass(frozen=True, eq=False)
class CropPlan:
    """What `Recipe.draw` returns and `render` obeys: one group per crop size, and the recipe's constants.

    sizes: (B, 2) int64, height and width of the images it was drawn for. order: operations between crop and
    normalisation; those that the recipe never draws are left out. `plan[v]` is the plan of crop v alone.
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
        """The plan on another device, its tensors as views of one buffer, which is what crosses.

        non_blocking: from the CPU to a GPU, go on without waiting for the copy; work on the same stream sees it whole.
        """
        return self.with_tensors(moved(self.tensors(), device, non_blocking))

    def tensors(self) -> list[Tensor]:
        """Every tensor of the plan: sizes, then those of each group in their order."""
        return [self.sizes, *(tensor for group in self.groups for tensor in group.tensors().values())]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "CropPlan":
        """The same plan with other tensors, in the order of `tensors`."""
        sizes, *rest = tensors
        each = iter(rest)
        return replace(self, groups=tuple(group.apply(lambda _: next(each)) for group in self.groups), sizes=sizes)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: `torch.save` it, `torch.load(weights_only=True)` it."""
        groups = [{f.name: getattr(group, f.name) for f in fields(group)} for group in self.groups]
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"groups": groups}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "CropPlan":
        """The plan that `state_dict` wrote."""
        return cls(**(state | {"groups": tuple(CropGroup(**group) for group in state["groups"])}))
