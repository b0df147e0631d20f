"""PCA whitening, which DeepCluster applies to features before k-means (Caron et al. 2018, arXiv:1807.05520)."""

import torch
from torch import Tensor

from cluster_memory._estimator import Estimator
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Rows
from cluster_memory._sources import Matrix, Source

_BLOCK_BYTES = 16 * 2**20


class PCAWhitening(Estimator):
    """Projects rows onto the directions of most variance, scales each direction to unit variance, then each row to unit
    length.

    The covariance is summed in float64, block by block. Besides x and the result, this needs 24 d^2 bytes and 16 MiB
    for rows of length d. The sign of a direction is chosen so that its largest coordinate is positive, which gives the
    same result on every machine.

    Args:
        dim: Number of directions to keep, at least 1.
        at_most: If the data vary along fewer directions, keep as many as there are instead of raising ValueError.

    Attributes:
        mean_: (d,) float32 tensor, the mean of the rows.
        components_: (d, dim) float32 tensor: the directions, divided by their standard deviations. With `at_most` it
            may have fewer columns.

    Raises:
        ValueError: If `dim` is below 1.

    Example:
        ```python
        whitened = PCAWhitening(256).fit_transform(features)
        ```
    """

    mean_: Tensor
    components_: Tensor

    def __init__(self, dim: int, at_most: bool = False) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim, self.at_most = dim, at_most

    def fit(self, x: Matrix) -> "PCAWhitening":
        """Finds the directions of most variance.

        Args:
            x: (N, d) float16, bfloat16, float32 or float64: a tensor on any device, a NumPy array, a memory map, or
                anything else that `KMeans.fit` takes.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If x varies along fewer than `dim` directions (at most min(N - 1, d)); with `at_most`, only if
                all rows are the same.
            NotFinite: If x holds NaN or infinity.
        """
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
        # Smaller eigenvalues are zero up to rounding. Dividing by them would amplify noise.
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
        self.mean_, self.components_ = mean.float(), (vectors / values.sqrt()).float()
        return self

    def fit_transform(self, x: Matrix) -> Tensor:
        """Finds the directions of most variance and returns the whitened rows of the same x.

        Args:
            x: (N, d) floats, as for `fit`.

        Returns:
            (N, dim) float32 tensor, as from `transform`.
        """
        return self.fit(x).transform(x)

    def transform(self, x: Matrix) -> Tensor:
        """Whitens rows and scales them to unit length.

        Args:
            x: (N, d) floats, as for `fit`.

        Returns:
            (N, dim) float32 tensor on the device of x (CPU for arrays). A row equal to the mean stays zero.

        Raises:
            RuntimeError: If the estimator is not fitted.
            ValueError: If rows do not have the length of those it was fitted on.
            NotFinite: If x holds NaN or infinity.
        """
        if not hasattr(self, "components_"):
            raise RuntimeError("transform needs directions: call fit first")
        rows = self._rows(x)
        if rows.dim != len(self.mean_):
            raise ValueError(f"x must have rows of length {len(self.mean_)}, got {rows.dim}")
        mean, components = self.mean_.to(rows.device), self.components_.to(rows.device)
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
