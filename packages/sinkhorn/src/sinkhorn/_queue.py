"""The queue of recent embeddings that helps small batches to equal use (Caron et al. 2020, arXiv:2006.09882)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sinkhorn._mirror import Mirror
from sinkhorn._ranks import Ranks


class EmbeddingQueue(nn.Module):
    """The last `length` embeddings (float32, D values) of each of n_crops crops, newest batch first.

    Buffers are the whole state: `embeddings` (n_crops, length, D), `n_valid` () int64, how many slots were ever filled.
    The host keeps that number too, so nothing waits for a GPU, but for once after a checkpoint was loaded or the module
    moved (and, with a group, for the lengths of the batches).
    group: ranks whose batches are put together. Every rank then holds the same queue, 4 n_crops length D bytes,
    whatever the number of ranks, so a run may resume on another one."""

    embeddings: Tensor
    n_valid: Tensor

    def __init__(self, n_crops: int, length: int, dim: int, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        if min(n_crops, length, dim) < 1:
            raise ValueError(f"expected n_crops, length, dim >= 1, got {n_crops}, {length}, {dim}")
        self._ranks = Ranks(group)
        self.register_buffer("embeddings", torch.zeros(n_crops, length, dim))
        self.register_buffer("n_valid", torch.zeros((), dtype=torch.int64))
        self._filled = Mirror()

    @property
    def is_full(self) -> bool:
        return self._filled.read(self.n_valid) == self.embeddings.shape[1]

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Put z (n_crops, B, D) before what is there; B is free, and may differ between ranks.

        Inside a batch rows keep their order, rank by rank; of a batch longer than the queue the first rows stay.
        Call it after the codes: SwAV's batch is not in its own queue. Collective with a group."""
        n_crops, length, dim = self.embeddings.shape
        if z.ndim != 3 or z.shape[0] != n_crops or z.shape[2] != dim or not z.is_floating_point():
            raise ValueError(f"z must be a float ({n_crops}, B, {dim}), got {z.dtype} {tuple(z.shape)}")
        rows = z.detach().to(self.embeddings).transpose(0, 1)
        new = self._ranks.concatenate(rows.contiguous()).transpose(0, 1)
        self.embeddings.copy_(torch.cat([new, self.embeddings], 1)[:, :length])
        self._filled.write(self.n_valid, min(length, self._filled.read(self.n_valid) + new.shape[1]))

    def valid(self) -> Tensor:
        """All filled slots (n_crops, n_valid, D), a view; none before the first push."""
        return self.embeddings[:, : self._filled.read(self.n_valid)]

    def local(self) -> Tensor:
        """This rank's part of `valid`: parts of all ranks together are each slot once, as `sinkhorn_knopp` wants it."""
        return self.valid().tensor_split(self._ranks.size, dim=1)[self._ranks.rank]
