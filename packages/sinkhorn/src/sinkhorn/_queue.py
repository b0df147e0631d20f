"""The queue of recent embeddings that supplements small batches (Caron et al. 2020, arXiv:2006.09882)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sinkhorn._arrays import as_tensor
from sinkhorn._mirror import Mirror
from sinkhorn._ranks import Ranks

if TYPE_CHECKING:
    import numpy as np


class EmbeddingQueue(nn.Module):
    """The last `length` embeddings of each code crop, newest batch first.

    The buffers hold the whole state: `embeddings` (n_crops, length, dim) float32, and `n_valid` () int64, the number of
    slots that were ever filled. The host keeps a copy of `n_valid`, so nothing waits for a GPU, except once after a
    checkpoint was loaded or the module moved, and, with a group, for the lengths of the batches.

    With a group, every rank holds the same queue of 4 n_crops length dim bytes, so a run may resume on another number
    of ranks.

    Args:
        n_crops: Number of code crops.
        length: Slots per crop.
        dim: Size of an embedding.
        group: Process group whose batches are put together. None: this process alone.

    Raises:
        ValueError: n_crops, length or dim is below 1.

    Example:
        ```python
        queue = EmbeddingQueue(n_crops=2, length=3840, dim=128)
        extra = prototypes(queue.local()[0]) if queue.is_full else None
        queue.push(torch.stack([z0, z1]))  # after the codes
        ```
    """

    embeddings: Tensor
    n_valid: Tensor

    def __init__(self, n_crops: int, length: int, dim: int, *, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        if min(n_crops, length, dim) < 1:
            raise ValueError(f"expected n_crops, length, dim >= 1, got {n_crops}, {length}, {dim}")
        self._ranks = Ranks(group)
        self.register_buffer("embeddings", torch.zeros(n_crops, length, dim))
        self.register_buffer("n_valid", torch.zeros((), dtype=torch.int64))
        self._filled = Mirror()

    @property
    def is_full(self) -> bool:
        """Whether every slot was filled."""
        return self._filled.read(self.n_valid) == self.embeddings.shape[1]

    @torch.no_grad()
    def push(self, z: Tensor | np.ndarray) -> None:
        """Put a batch in front of the queue; the oldest embeddings drop out. Collective with a group.

        The batch keeps its order, rank by rank. Of a batch longer than the queue, the first rows stay. Call it after
        computing the codes: in SwAV, a batch is not in its own queue.

        Args:
            z: Embeddings (n_crops, B, dim), any float dtype. B is free and may differ between ranks.

        Raises:
            ValueError: z has another shape or is not float.
        """
        z = as_tensor(z)
        n_crops, length, dim = self.embeddings.shape
        if z.ndim != 3 or z.shape[0] != n_crops or z.shape[2] != dim or not z.is_floating_point():
            raise ValueError(f"z must be a float ({n_crops}, B, {dim}), got {z.dtype} {tuple(z.shape)}")
        rows = z.detach().to(self.embeddings).transpose(0, 1)
        new = self._ranks.concatenate(rows.contiguous()).transpose(0, 1)
        self.embeddings.copy_(torch.cat([new, self.embeddings], 1)[:, :length])
        self._filled.write(self.n_valid, min(length, self._filled.read(self.n_valid) + new.shape[1]))

    def valid(self) -> Tensor:
        """Return all filled slots, a view (n_crops, n_valid, dim)."""
        return self.embeddings[:, : self._filled.read(self.n_valid)]

    def local(self) -> Tensor:
        """Return this rank's part of `valid`, for `extra` of `sinkhorn_knopp`; ranks together hold each slot once."""
        return self.valid().tensor_split(self._ranks.size, dim=1)[self._ranks.rank]

    def extra_repr(self) -> str:
        """Return the arguments, for `repr`."""
        n_crops, length, dim = self.embeddings.shape
        return f"n_crops={n_crops}, length={length}, dim={dim}"
