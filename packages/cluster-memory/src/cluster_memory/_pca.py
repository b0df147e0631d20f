"""PCA whitening, DeepCluster's treatment of features before k-means (Caron et al. 2018, arXiv:1807.05520)."""

import torch
from torch import Tensor

from cluster_memory._ranks import Ranks
from cluster_memory._rows import Rows
from cluster_memory._sources import Matrix, Source

_BLOCK_BYTES = 16 * 2**20


class PCAWhitening:
    """Project onto the `dim` directions of most variance, scale each to one, and make rows unit.

    at_most: where the data vary along fewer directions, take as many as there are instead of refusing.

    The covariance is summed in float64, block by block; memory besides x and the result: 24 d^2 bytes and 16 MiB. The
    sign of a direction is chosen so that its largest coordinate is positive: one result on every machine."""

    mean: Tensor  # (d,) float32
    components: Tensor  # (d, dim) float32, scaled by 1 / standard deviation

    def __init__(self, dim: int, at_most: bool = False) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim, self.at_most = dim, at_most

    def fit(self, x: Matrix) -> "PCAWhitening":
        """Directions of x (N, d), of any float dtype: tensor, array or memory map; returns self.

        Raises ValueError if x holds NaN or inf, or varies along fewer than `dim` directions (dim <= min(N - 1, d)),
        with `at_most` only if it does not vary at all."""
        rows = self._rows(x)
        mean = torch.zeros(rows.dim, dtype=torch.float64, device=rows.device)
        for _, block in rows:
            mean += block.sum(0, dtype=torch.float64)
        mean /= max(1, rows.n)
        scatter = torch.zeros(rows.dim, rows.dim, dtype=torch.float64, device=rows.device)
        for _, block in rows:
            centred = block.double() - mean
            scatter.addmm_(centred.T, centred)
        values, vectors = torch.linalg.eigh(scatter / max(1, rows.n))
        values, vectors = values.flip(0), vectors.flip(1)
        # below this an eigenvalue is what rounding left of zero, and dividing by it would blow noise up
        floor = float(values[0]) * max(rows.n, rows.dim) * torch.finfo(torch.float64).eps
        rank = int((values > floor).sum())
        if not rank:
            raise ValueError("all rows of x are the same: there is no direction to project on")
        if rank < self.dim and not self.at_most:
            raise ValueError(f"x varies along {rank} directions only, got dim = {self.dim}: use dim <= {rank}")
        dim = min(self.dim, rank)
        values, vectors = values[:dim], vectors[:, :dim]
        largest = vectors.abs().argmax(0, keepdim=True)
        vectors = vectors * vectors.gather(0, largest).sign()
        self.mean, self.components = mean.float(), (vectors / values.sqrt()).float()
        return self

    def transform(self, x: Matrix) -> Tensor:
        """Whitened unit rows (N, dim) float32 of x (N, d), on x's device; a row equal to the mean stays zero."""
        if not hasattr(self, "components"):
            raise RuntimeError("transform needs directions: call fit first")
        rows = self._rows(x)
        if rows.dim != len(self.mean):
            raise ValueError(f"x must have rows of length {len(self.mean)}, got {rows.dim}")
        mean, components = self.mean.to(rows.device), self.components.to(rows.device)
        out = torch.empty(rows.n, components.shape[1], device=rows.device)
        for part, block in rows:
            out[part] = torch.nn.functional.normalize((block - mean) @ components, dim=1, eps=1e-10)
        return out

    @staticmethod
    def _rows(x: Matrix) -> Rows:
        source = Source(x)
        rows = Rows(source, max(1, _BLOCK_BYTES // (16 * source.dim)), Ranks(None))
        rows.check_finite()
        return rows
