"""DeepCluster-v2's memory: the embeddings of one epoch, for the next (Caron et al. 2020, arXiv:2006.09882)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster_memory import _device
from cluster_memory._kmeans import KMeans
from cluster_memory._ranks import Ranks, last_places
from cluster_memory._samples import check_bank_dtype
from cluster_memory._two_means import uniforms


class EpochBank(nn.Module):
    """Embeddings of the last epoch, one per view, for each of N samples.

    The first `write` after a `cluster` starts a new epoch: what was written before it no longer counts. Buffers are the
    whole state, so a run resumes in mid-epoch: `bank` (n_views, N, D), `written` (N,) bool, `closed` () bool.
    group: ranks whose batches are put together; each holds the whole bank (4 V N D bytes), and clustering is shared.
    bank_dtype: float32, or float16 for half the bytes; k-means computes in float32 either way, and loading converts."""

    bank: Tensor
    written: Tensor
    closed: Tensor

    def __init__(
        self,
        n_samples: int,
        dim: int,
        n_views: int,
        group: dist.ProcessGroup | None = None,
        *,
        bank_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(n_samples, dim, n_views) < 1:
            raise ValueError(f"expected n_samples, dim, n_views >= 1, got {n_samples}, {dim}, {n_views}")
        check_bank_dtype(bank_dtype)
        self._ranks = Ranks(group)
        self.register_buffer("bank", torch.zeros(n_views, n_samples, dim, dtype=bank_dtype))
        self.register_buffer("written", torch.zeros(n_samples, dtype=torch.bool))
        self.register_buffer("closed", torch.zeros((), dtype=torch.bool))
        self._closed = _device.Mirror()
        self._seen: Tensor | None = None  # least and largest index (2,) written since the last look, on a GPU

    @torch.no_grad()
    def write(self, indices: Tensor, embeddings: Tensor) -> None:
        """Keep embeddings (n_views, B, D) of samples `indices` (B,); of one sample written twice, the last counts.

        On a GPU nothing waits for the device, but for the lengths of the batches with a group. So if indices that are
        on the GPU are out of range, nothing is written, and the next `cluster` or `state_dict` raises ValueError; those
        on the CPU are checked at once."""
        n_views, n, dim = self.bank.shape
        if indices.ndim != 1 or embeddings.shape != (n_views, len(indices), dim):
            raise ValueError(
                f"expected indices (B,) and embeddings ({n_views}, B, {dim}), "
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
        rows, is_written = rows[last_places(indices)].transpose(0, 1), torch.ones_like(indices, dtype=torch.bool)
        if _device.on_gpu(indices.device):  # to look at the indices would be to wait: write nothing if one is wrong
            low, high = indices.aminmax()
            if self._seen is not None:
                low, high = torch.minimum(low, self._seen[0]), torch.maximum(high, self._seen[1])
            self._seen = torch.stack([low, high])
            fine = (indices.amin() >= 0) & (indices.amax() < n)
            indices = torch.where(fine, indices, 0)
            rows = torch.where(fine, rows, self.bank[:, indices])
            is_written = torch.where(fine, is_written, self.written[indices])
        # equal rows where a sample occurs more than once
        self.bank[:, indices] = rows
        self.written[indices] = is_written

    def _check_seen(self) -> None:
        """Raise, late, for indices on a GPU, whose range `write` did not ask for."""
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
        warm_start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Spherical k-means for each head: assignments (n_heads, N) int64 and unit centroids (n_heads, K, D) float32.

        Head h clusters view h mod n_views from random rows that depend on (seed, epoch, h), or from warm_start
        (n_heads, K, D). Samples not written in this epoch get -100. As in the paper's code an empty cluster keeps its
        centroid. Raises ValueError if fewer than K samples were written."""
        n_views, n, dim = self.bank.shape
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
            result = kmeans.fit(self.bank[head % n_views, mine])
            assignments[head, present] = self._ranks.concatenate(result.assignments)
            centroids.append(result.centroids)
        self._closed.write(self.closed, True)
        return assignments, torch.stack(centroids)


def _check_range(indices: Tensor, n: int) -> None:
    if len(indices) and not 0 <= int(indices.amin()) <= int(indices.amax()) < n:
        raise ValueError(f"indices must be in [0, {n}), got {int(indices.amin())} to {int(indices.amax())}")
