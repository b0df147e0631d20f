"""The collectives this package needs, over a process group or over this process alone."""

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """Collectives over `group`. With `group=None` every call returns its argument."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.group is not None:
            dist.all_reduce(values, dist.ReduceOp.SUM, group=self.group)
        return values

    def max(self, values: Tensor) -> Tensor:
        """Maximum over ranks, in place."""
        if self.group is not None:
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def concatenate(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks in rank order; ranks may hold different numbers of rows."""
        if self.group is None:
            return rows
        lengths = [int(length) for length in self._gather(torch.full((), len(rows), device=rows.device))]
        padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
        padded[: len(rows)] = rows
        return torch.cat([part[:length] for part, length in zip(self._gather(padded), lengths, strict=True)])

    def _gather(self, values: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values, group=self.group)
        return parts
