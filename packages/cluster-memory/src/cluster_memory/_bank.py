"""DeepCluster-v2's memory of the embeddings of one epoch (Caron et al. 2020, arXiv:2006.09882)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster_memory import _device
from cluster_memory._kmeans import KMeans
from cluster_memory._ranks import Ranks, last_occurrences
from cluster_memory._samples import check_bank_dtype
from cluster_memory._sources import Array, as_tensor
from cluster_memory._two_means import uniforms


class EpochBank(nn.Module):
    """DeepCluster-v2's memory: embeddings of the crops of N samples from one epoch, clustered for the next.

    The first `write` after a `cluster` starts a new epoch: what was written before no longer counts. All state is in
    the `state_dict`, so a run can resume in the middle of an epoch. A checkpoint with another `bank_dtype` is
    converted.

    Caron et al. 2020, arXiv:2006.09882, appendix D.

    Args:
        n_samples: Number of samples N.
        dim: Length D of an embedding.
        n_crops: Number of embeddings V kept for each sample, one for each crop.
        bank_dtype: torch.float32, or torch.float16 for half the bytes. k-means computes in float32 either way.
        group: Process group whose batches are put together. Each rank holds the whole bank (4 V N D bytes in float32);
            clustering is divided among the ranks. None means this process alone.

    Attributes:
        bank: (V, N, D) buffer of `bank_dtype`.
        written: (N,) bool buffer, whether a sample was written in this epoch.
        closed: () bool buffer, whether the bank was clustered after the last write.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        ```python
        bank = EpochBank(n_samples=len(images), dim=128, n_crops=2)
        bank.write(indices, embeddings)  # for every batch of an epoch
        assignments, centroids = bank.cluster(k=3000, n_heads=3, seed=0, epoch=epoch)
        ```
    """

    bank: Tensor
    written: Tensor
    closed: Tensor

    def __init__(
        self,
        n_samples: int,
        dim: int,
        n_crops: int,
        *,
        bank_dtype: torch.dtype = torch.float32,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if min(n_samples, dim, n_crops) < 1:
            raise ValueError(f"expected n_samples, dim, n_crops >= 1, got {n_samples}, {dim}, {n_crops}")
        check_bank_dtype(bank_dtype)
        self._ranks = Ranks(group)
        self.register_buffer("bank", torch.zeros(n_crops, n_samples, dim, dtype=bank_dtype))
        self.register_buffer("written", torch.zeros(n_samples, dtype=torch.bool))
        self.register_buffer("closed", torch.zeros((), dtype=torch.bool))
        self._closed = _device.Mirror()
        # On a GPU: lowest and highest index (2,) written since the last check of the range.
        self._seen: Tensor | None = None

    def extra_repr(self) -> str:
        """The arguments, for torch's repr."""
        n_crops, n, dim = self.bank.shape
        bank_dtype, ranks = self.bank.dtype, self._ranks.size
        return f"n_samples={n}, dim={dim}, n_crops={n_crops}, bank_dtype={bank_dtype}, ranks={ranks}"

    @torch.no_grad()
    def write(self, indices: Array, embeddings: Array) -> None:
        """Stores the embeddings of a batch. If a sample occurs more than once, the last occurrence is kept.

        With a group this is a collective call: batches are put together in rank order and may differ in length.

        On a GPU the host does not wait, except for the lengths of the batches with a group. If indices on the GPU are
        out of range, nothing is written, and the next `cluster` or `state_dict` raises the error. Indices on the CPU
        are checked at once.

        Args:
            indices: (B,) integers in [0, N), tensor or NumPy array on any device.
            embeddings: (V, B, D) floats, tensor or NumPy array on any device.

        Raises:
            ValueError: If a shape is wrong or an index is out of range.
        """
        indices, embeddings = as_tensor(indices), as_tensor(embeddings)
        n_crops, n, dim = self.bank.shape
        if indices.ndim != 1 or embeddings.shape != (n_crops, len(indices), dim):
            raise ValueError(
                f"expected indices (B,) and embeddings ({n_crops}, B, {dim}), "
                f"got {tuple(indices.shape)} and {tuple(embeddings.shape)}"
            )
        if not _device.on_gpu(indices.device):
            _check_range(indices, n)
        indices = self._ranks.concatenate(_device.sent(indices, self.bank.device).long())
        rows = _device.sent(embeddings.detach(), self.bank.device).to(self.bank.dtype).transpose(0, 1)
        rows = self._ranks.concatenate(rows.contiguous())
        if self._closed.read(self.closed):
            self.written.zero_()
            self._closed.write(self.closed, False)
        if not len(indices):
            return
        rows, is_written = rows[last_occurrences(indices)].transpose(0, 1), torch.ones_like(indices, dtype=torch.bool)
        if _device.on_gpu(indices.device):
            # Checking the indices here would make the host wait. Instead, if one is out of range, row 0 is overwritten
            # with itself, and the range is kept for a later check.
            low, high = indices.aminmax()
            if self._seen is not None:
                low, high = torch.minimum(low, self._seen[0]), torch.maximum(high, self._seen[1])
            self._seen = torch.stack([low, high])
            fine = (indices.amin() >= 0) & (indices.amax() < n)
            indices = torch.where(fine, indices, 0)
            rows = torch.where(fine, rows, self.bank[:, indices])
            is_written = torch.where(fine, is_written, self.written[indices])
        # a sample that occurs more than once gets equal rows, so the order of these writes does not matter
        self.bank[:, indices] = rows
        self.written[indices] = is_written

    def _check_seen(self) -> None:
        """Raises ValueError if an index on a GPU, which `write` did not check, was out of range."""
        seen, self._seen = self._seen, None
        if seen is not None:
            _check_range(seen, self.bank.shape[1])

    def _save_to_state_dict(self, *args: Any) -> None:
        self._check_seen()
        super()._save_to_state_dict(*args)

    @torch.no_grad()
    def cluster(
        self,
        k: int,
        n_heads: int,
        n_iters: int = 10,
        *,
        seed: int,
        epoch: int,
        warm_start: Array | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Clusters the embeddings of this epoch by spherical k-means, once for each head.

        Head h clusters crop h mod V. It starts from random rows that depend on (seed, epoch, h), or from `warm_start`.
        An empty cluster keeps its centroid, as in the paper's code. A collective call with a group.

        Args:
            k: Number of clusters K.
            n_heads: Number of clusterings H.
            n_iters: Maximum number of k-means updates.
            seed: Seed of the run.
            epoch: Epoch, which changes the draws.
            warm_start: (H, K, D) first centroids, tensor or NumPy array.

        Returns:
            Assignments (H, N) int64, -100 for samples that were not written in this epoch, and unit centroids
            (H, K, D) float32, both on the device of the bank.

        Raises:
            ValueError: If fewer than k samples were written, or `warm_start` has the wrong shape.
            NotFinite: If embeddings hold NaN or infinity.
        """
        n_crops, n, dim = self.bank.shape
        warm_start = None if warm_start is None else as_tensor(warm_start)
        if warm_start is not None and warm_start.shape != (n_heads, k, dim):
            raise ValueError(f"warm_start must be ({n_heads}, {k}, {dim}), got {tuple(warm_start.shape)}")
        self._check_seen()
        present = self.written.nonzero().flatten()
        if len(present) < k:
            raise ValueError(
                f"k = {k} clusters need as many written samples, got {len(present)}: write more, or lower k"
            )
        mine = present.tensor_split(self._ranks.size)[self._ranks.rank]
        assignments = torch.full((n_heads, n), -100, device=self.bank.device)
        centroids = []
        for head in range(n_heads):
            init = "random" if warm_start is None else warm_start[head]
            key = int(uniforms(1, seed, epoch, head)[0] * 2**53)
            kmeans = KMeans(k, "cosine", n_iters, init=init, empty="keep", seed=key, group=self._ranks.group)  # type: ignore[arg-type]
            kmeans.fit(self.bank[head % n_crops, mine])
            assignments[head, present] = self._ranks.concatenate(kmeans.assignments_)
            centroids.append(kmeans.centroids_)
        self._closed.write(self.closed, True)
        return assignments, torch.stack(centroids)


def _check_range(indices: Tensor, n: int) -> None:
    """Raises ValueError if an index is out of range."""
    if len(indices) and not 0 <= int(indices.amin()) <= int(indices.amax()) < n:
        raise ValueError(f"indices must be in [0, {n}), got {int(indices.amin())} to {int(indices.amax())}")
