"""One step of training: the loss in the run's precision, the backward pass, the update."""

from __future__ import annotations

from typing import Any

import cluster_memory
import sinkhorn
import torch
from lightning_fabric import Fabric
from torch import Tensor

from pretrain.build import prepare_step

# What the packages raise for NaN or infinity in features, embeddings or scores.
NOT_FINITE = (cluster_memory.NotFinite, sinkhorn.NotFinite)


def loss_of(fabric: Fabric, network: Any, crops: list[Tensor], indices: Tensor) -> Tensor:
    """`network.loss(crops, indices)` in the precision of the run.

    Fabric enters autocast only around modules that it has wrapped, and with one process it wraps none."""
    with fabric.autocast():
        loss: Tensor = network.loss(crops, indices)
    return loss


def update(
    fabric: Fabric,
    network: Any,
    optimizer: torch.optim.Optimizer,
    crops: list[Tensor],
    indices: Tensor,
    *,
    step: int,
    lr: float,
) -> Tensor:
    """Forward, backward and one update of the weights. Returns the loss, a scalar without gradient.

    step: the number of updates done before this one, which decides what is still frozen. Never waits for a GPU."""
    loss = loss_of(fabric, network, crops, indices)
    optimizer.zero_grad()
    fabric.backward(loss)
    prepare_step(optimizer, step, lr)
    optimizer.step()
    return loss.detach()
