"""A batch that is larger than one part of a network can hold: in parts one after the other, or on many ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pretrain.errors import BadInput


def check_parts(batch: int, world: int, micro_batch: int | None) -> None:
    """Raises BadInput where `in_parts` would make a part of one image, or more parts on one rank than on another."""
    if micro_batch is None:
        return
    smallest, largest = batch // world, -(-batch // world)  # shares of the ranks
    n_parts = -(-largest // micro_batch)
    if smallest // n_parts < 2:
        raise BadInput(
            f"--micro-batch {micro_batch} cuts the {smallest} images of a step into parts of one, and batch norm needs "
            f"two; take {max(3, micro_batch + 1)} or more"
        )
    if -(-smallest // micro_batch) != n_parts:  # synchronised batch norm would wait for ever for the rank with fewer
        raise BadInput(
            f"--batch {batch} over {world} processes and --micro-batch {micro_batch} give some of them {n_parts - 1} "
            f"parts, others {n_parts}; take a --batch that {world} divides, such as {batch - batch % world}"
        )


def in_parts(
    network: Callable[[list[Tensor]], Tensor], crops: list[Tensor], micro_batch: int | None, owner: nn.Module
) -> Tensor:
    """network(crops), (V B, D) crop by crop, with the activations of at most `micro_batch` images in memory at a time.

    Values and gradients are those of the whole batch, so codes and centroids that span it do too; only batch norm
    takes its statistics from each part, as it would on as many GPUs without synchronisation. The parts are run again
    in the backward pass: a third more work. owner: holds the batch norms, whose running statistics move once."""
    n = len(crops[0])
    if micro_batch is None or micro_batch >= n:
        return network(crops)
    n_parts = -(-n // micro_batch)  # parts of nearly one size: a last part of one image would break batch norm
    split = [crop.tensor_split(n_parts) for crop in crops]
    rows: list[Tensor] = []
    for part in zip(*split, strict=True):
        if torch.is_grad_enabled():
            z = checkpoint(
                lambda *part: network(list(part)),
                *part,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _still_statistics(owner)),
            )
        else:
            z = network(list(part))
        rows.append(z.unflatten(0, (len(crops), -1)))  # (V, b, D)
    return torch.cat(rows, dim=1).flatten(0, 1)


def mean_over_ranks(total: Tensor, weight: Tensor, group: Any) -> Tensor:
    """sum of `total` / sum of `weight` over all ranks, such that DDP, which averages, gives exactly its gradient.

    total: a scalar, this rank's sum of weighted losses. weight: a scalar, the sum of their weights. Returns this rank's
    share times the number of ranks: the mean over ranks is the loss of the whole batch; 0 where no row has weight.
    Collective with a group."""
    world = 1
    weight = weight.detach().clone()
    if group is not None:
        world = dist.get_world_size(group)
        dist.all_reduce(weight, group=group)
    return total * (world / weight.clamp(min=torch.finfo(weight.dtype).tiny))


def _still_statistics(owner: nn.Module) -> AbstractContextManager[None]:
    @contextmanager
    def still() -> Iterator[None]:
        norms = [m for m in owner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        counted = [n_batches for _, n_batches in before if n_batches is not None]
        # a counter to throw away, one for all: torch's SyncBatchNorm refuses to go without
        thrown_away = torch.zeros_like(counted[0]) if counted else None
        for norm, (_, n_batches) in zip(norms, before, strict=True):
            norm.momentum = 0.0
            norm.num_batches_tracked = None if n_batches is None else thrown_away
        try:
            yield
        finally:
            for norm, (momentum, n_batches) in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, n_batches

    return still()
