"""SwAV's prototypes: one or several bias-free linear heads with unit rows (Caron et al. 2020, arXiv:2006.09882)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Prototypes(nn.Module):
    """Learned unit rows (K, D) that embeddings are compared with; one head, or several for k a sequence.

    dim: D. k: prototypes, or those of each head. freeze_steps: first steps in which prototypes get no gradient.
    seed: the only source of randomness; a linear layer's usual initialisation, then unit rows.

    State is the weights, under the authors' names: `weight` for one head, `prototypes0.weight`, ... for several."""

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

    def forward(self, z: Tensor) -> Tensor | list[Tensor]:
        """Cosine scores (B, K) float32 of z (B, D) of any float dtype, or a list of them for several heads.

        z is normalised here, in float32 under any autocast. Scores are cosines as long as rows are unit: call
        `normalise_` before the forward of each step."""
        if z.ndim != 2 or z.shape[1] != self.dim or not z.is_floating_point():
            raise ValueError(f"z must be a float (B, {self.dim}), got {z.dtype} {tuple(z.shape)}")
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.float())
            scores = [F.linear(z, weight.float()) for weight in self.parameters()]
        return scores[0] if self.single else scores

    @torch.no_grad()
    def normalise_(self) -> None:
        """Make all rows unit, in place; once before the forward of each step (the optimiser leaves the sphere)."""
        for weight in self.parameters():
            weight.copy_(F.normalize(weight.float()))

    def drop_frozen_gradients(self, step: int) -> None:
        """Between backward and optimiser step: no gradients while step < freeze_steps; step counts updates from 0."""
        if step < self.freeze_steps:
            for weight in self.parameters():
                weight.grad = None
