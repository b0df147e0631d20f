"""One training step: the loss in the run's precision, the backward pass, the update, the method's hook."""

from __future__ import annotations

from typing import Any

import cluster_memory
import sinkhorn
import torch
from lightning_fabric import Fabric
from steady_runs import TrainingFailed
from steady_runs.keys import key
from torch import Tensor

from pretrain.assemble import Trained
from pretrain.clock import Clock
from pretrain.run import Run
from pretrain.schedule import lr_at
from pretrain.settings import RunSettings

# What the packages raise for NaN or infinity in features, embeddings or scores.
NOT_FINITE = (cluster_memory.NotFinite, sinkhorn.NotFinite)


def train_step(
    run: Run, settings: RunSettings, trained: Trained, crops: list[Tensor], indices: Tensor, clock: Clock
) -> Tensor:
    """Update the weights and the method's memories. Collective. Never waits for a GPU.

    Args:
        run: Passed to the method's hook.
        settings: Of the run.
        trained: Method, network and optimiser.
        crops: V of (B, 3, S, S), in the order of the recipe.
        indices: (B,) int64, this rank's images.
        clock: Told how long network and method took.

    Returns:
        The loss, the mean over all ranks, a scalar without gradient.

    Raises:
        TrainingFailed: If the method's codes or memories were given NaN or infinity. They are not changed then.
    """
    step, fabric = run.step, run.machine.fabric
    torch.manual_seed(key(settings.seed, "dropout", step, run.machine.rank))  # only dropout draws from this generator
    lr = lr_at(step, run.steps_per_epoch, settings)
    try:
        with clock.section("network"):
            loss = update(fabric, trained.network, trained.optimizer, crops, indices, step=step, lr=lr)
        with clock.section("method"):
            trained.method.after_step(run, indices)
    except NOT_FINITE as error:
        raise TrainingFailed(
            f"step {step + 1}: {error}; lower --lr ({settings.lr:g} now), or use --precision 32"
        ) from None
    return run.machine.mean(loss)


def loss_of(fabric: Fabric, network: Any, crops: list[Tensor], indices: Tensor) -> Tensor:
    """`network.loss(crops, indices)` in the precision of the run.

    Autocast is entered here, as Fabric enters it only around modules that it wraps, and with one process it wraps none.
    """
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
    """Run forward, backward and one update of the weights. Never waits for a GPU.

    Args:
        fabric: Of the run.
        network: The method as Fabric has wrapped it.
        optimizer: Over its parameter groups.
        crops: V of (B, 3, S, S), in the order of the recipe.
        indices: (B,) int64, this rank's images.
        step: Updates before this one; decides which parameter groups are still frozen.
        lr: Learning rate.

    Returns:
        This rank's loss, a scalar without gradient.
    """
    loss = loss_of(fabric, network, crops, indices)
    optimizer.zero_grad()
    fabric.backward(loss)
    prepare(optimizer, step, lr)
    optimizer.step()
    return loss.detach()


def prepare(optimizer: torch.optim.Optimizer, step: int, lr: float) -> None:
    """Set the learning rate of each group, and drop the gradients of groups that are still frozen."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if step < group["frozen_steps"]:
            for parameter in group["params"]:
                parameter.grad = None
