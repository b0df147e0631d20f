"""Batches that are larger than a GPU can hold at once: split into micro-batches, and over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from steady_runs import BadInput
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def check_micro_batches(batch: int, n_ranks: int, micro_batch: int | None) -> None:
    """Raise BadInput if a micro-batch has one image, or if ranks have different numbers of micro-batches."""
    if micro_batch is None:
        return
    smallest, largest = batch // n_ranks, -(-batch // n_ranks)  # images of a rank
    n_parts = -(-largest // micro_batch)
    if smallest // n_parts < 2:
        raise BadInput(
            f"--micro-batch {micro_batch} cuts the {smallest} images of a step into parts of one, and batch norm needs "
            f"two; take {max(3, micro_batch + 1)} or more"
        )
    if -(-smallest // micro_batch) != n_parts:  # synchronised batch norm would hang
        raise BadInput(
            f"--batch {batch} over {n_ranks} processes and --micro-batch {micro_batch} give some of them {n_parts - 1} "
            f"parts, others {n_parts}; take a --batch that {n_ranks} divides, such as {batch - batch % n_ranks}"
        )


def in_micro_batches(
    network: Callable[[list[Tensor]], Tensor], crops: list[Tensor], micro_batch: int | None, owner: nn.Module
) -> Tensor:
    """Compute `network(crops)` with the activations of at most `micro_batch` images in memory at a time.

    Values and gradients are those of the whole batch, so codes can span it. Only batch norm takes its statistics from
    each micro-batch, as on several GPUs without synchronisation. The backward pass runs the network again: a third more
    work (gradient checkpointing).

    Args:
        network: V of (b, 3, S, S) -> (V b, D), crop by crop.
        crops: V of (B, 3, S, S).
        micro_batch: Images; None = the whole batch at once.
        owner: Holds the batch norms, whose running statistics must be updated once, not twice.

    Returns:
        (V B, D), crop by crop.
    """
    n = len(crops[0])
    if micro_batch is None or micro_batch >= n:
        return network(crops)
    n_parts = -(-n // micro_batch)  # of nearly equal size: a last one of one image would break batch norm
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
    """This rank's contribution to the weighted mean loss over all ranks. Collective with a group.

    The result is scaled by the number of ranks. DDP averages gradients over the ranks, and the average of these results
    is the loss of the whole batch: sum of `total` / sum of `weight`.

    Args:
        total: Scalar, this rank's sum of weighted losses.
        weight: Scalar, the sum of their weights.
        group: Process group, or None.

    Returns:
        Scalar; 0 if no row has weight.
    """
    n_ranks = 1
    weight = weight.detach().clone()
    if group is not None:
        n_ranks = dist.get_world_size(group)
        dist.all_reduce(weight, group=group)
    return total * (n_ranks / weight.clamp(min=torch.finfo(weight.dtype).tiny))


def _still_statistics(owner: nn.Module) -> AbstractContextManager[None]:
    @contextmanager
    def still() -> Iterator[None]:
        norms = [m for m in owner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        counted = [n_batches for _, n_batches in before if n_batches is not None]
        # one counter for all that is thrown away: torch's SyncBatchNorm requires one
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
