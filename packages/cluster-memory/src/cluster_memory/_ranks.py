"""The collectives of this package, over a process group or for this process alone."""

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """Collectives over `group`. With `group=None` there is one rank, and every call returns its argument."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """Maximum over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def min(self, values: Tensor) -> Tensor:
        """Minimum over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.MIN)

    def _reduce(self, values: Tensor, op: "dist.ReduceOp.RedOpType") -> Tensor:
        if self.group is not None:
            dist.all_reduce(values, op, group=self.group)
        return values

    def stack(self, values: Tensor) -> Tensor:
        """Values (W, ...) of all W ranks; they must have the same shape on every rank."""
        if self.group is None:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous(), group=self.group)
        return torch.stack(parts)

    def concatenate(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in rank order. Ranks may hold different numbers of rows."""
        if self.group is None:
            return rows
        lengths = self.stack(torch.full((), len(rows), device=rows.device)).tolist()
        padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
        padded[: len(rows)] = rows
        return torch.cat([part[:length] for part, length in zip(self.stack(padded), lengths, strict=True)])


def last_of_each(indices: Tensor) -> Tensor:
    """Positions (U,) of the last occurrence of each distinct value of indices (B,)."""
    ordered, order = indices.sort(stable=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return order[is_last]


def last_occurrences(indices: Tensor) -> Tensor:
    """For each entry of indices (B,), the position (B,) at which its value occurs last.

    Unlike with `last_of_each`, no shape depends on values, so the host does not wait for a GPU."""
    ordered, order = indices.sort(stable=True)
    return order[torch.searchsorted(ordered, indices, right=True) - 1]
