"""SwAV's prototypes: one or several bias-free linear heads with unit rows (Caron et al. 2020, arXiv:2006.09882)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinkhorn._arrays import as_tensor

if TYPE_CHECKING:
    import numpy as np


class Prototypes(nn.Module):
    """Learned unit vectors that embeddings are compared with, in one head or several.

    The state is the weights, under the authors' names: `weight` (K, dim) for one head, `prototypes0.weight`, ... for
    several.

    Args:
        dim: Size of an embedding.
        k: Number of prototypes; a sequence for several heads.
        freeze_steps: Number of first steps in which `drop_frozen_gradients` removes the gradients of the prototypes.
        seed: Seed of the initialisation: the default of a linear layer, then rows made unit.

    Raises:
        ValueError: dim or k is below 1, or freeze_steps is negative.

    Example:
        ```python
        prototypes = Prototypes(dim=128, k=3000)
        prototypes.normalise_()
        scores = prototypes(z)  # (B, 3000)
        ```
    """

    def __init__(self, dim: int, k: int | Sequence[int], *, freeze_steps: int = 0, seed: int = 0) -> None:
        super().__init__()
        sizes = [k] if isinstance(k, int) else list(k)
        if dim < 1 or not sizes or min(sizes) < 1 or freeze_steps < 0:
            raise ValueError(f"expected dim, k >= 1 and freeze_steps >= 0, got {dim}, {k} and {freeze_steps}")
        self.dim, self.freeze_steps, self.single = dim, freeze_steps, isinstance(k, int)
        generator = torch.Generator().manual_seed(seed)
        for head, size in enumerate(sizes):
            rows = torch.empty(size, dim).uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
            owner: nn.Module = self
            if not self.single:
                owner = nn.Module()
                self.add_module(f"prototypes{head}", owner)
            owner.register_parameter("weight", nn.Parameter(rows))
        self.normalise_()

    def forward(self, z: Tensor | np.ndarray) -> Tensor | list[Tensor]:
        """Compute cosine scores.

        Embeddings are normalised here, in float32 under any autocast. Scores are cosines as long as the prototypes are
        unit: call `normalise_` before the forward of each step.

        Args:
            z: Embeddings (B, dim), any float dtype.

        Returns:
            Scores (B, K) float32; a list of them, one per head, if there are several heads.

        Raises:
            ValueError: z has another shape or is not float.
        """
        z = as_tensor(z, next(self.parameters()).device)
        if z.ndim != 2 or z.shape[1] != self.dim or not z.is_floating_point():
            raise ValueError(f"z must be a float (B, {self.dim}), got {z.dtype} {tuple(z.shape)}")
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.float())
            scores = [F.linear(z, weight.float()) for weight in self.parameters()]
        return scores[0] if self.single else scores

    @torch.no_grad()
    def normalise_(self) -> None:
        """Make all prototypes unit, in place. Call it before the forward of each step, as optimisers change lengths."""
        for weight in self.parameters():
            weight.copy_(F.normalize(weight.float()))

    def drop_frozen_gradients(self, step: int) -> None:
        """Remove gradients while step < freeze_steps. Call it between backward and the optimiser's step.

        Args:
            step: Number of the update, counted from 0.
        """
        if step < self.freeze_steps:
            for weight in self.parameters():
                weight.grad = None

    def extra_repr(self) -> str:
        """Return the arguments, for `repr`."""
        sizes = [len(weight) for weight in self.parameters()]
        return f"dim={self.dim}, k={sizes[0] if self.single else sizes}, freeze_steps={self.freeze_steps}"
