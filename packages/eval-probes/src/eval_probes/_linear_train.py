"""Protocols of linear evaluation, and linear classifiers that train together.

Shapes: B batch, G classifiers (one per learning rate), C classes, D dimensions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LARS_TRUST, _LARS_EPS = 0.001, 1e-8


@dataclass(frozen=True)
class LinearProtocol:
    """Hyperparameters of a linear classifier on frozen features.

    The learning rate changes between epochs only, as in the reference codes.

    Args:
        epochs: Number of epochs.
        lr: Learning rate of the first epoch.
        batch: Samples per step.
        momentum: Momentum of the optimiser.
        weight_decay: Weight decay of weights and biases.
        nesterov: Whether to use Nesterov momentum.
        optimizer: "sgd" or "lars".
        milestones: Epochs from which the learning rate is multiplied by gamma; None: cosine to zero over all epochs.
        gamma: Factor at a milestone.
    """

    epochs: int
    lr: float
    batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    optimizer: Literal["sgd", "lars"] = "sgd"
    milestones: tuple[int, ...] | None = None
    gamma: float = 0.1

    def lr_factor(self, epoch: int) -> float:
        """Return the factor of the learning rate in an epoch, counted from 0."""
        if self.milestones is None:
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return step_factor(epoch, self.milestones, self.gamma)


def step_factor(epoch: int, milestones: tuple[int, ...], gamma: float) -> float:
    """Return gamma to the power of the number of milestones reached."""
    return gamma ** sum(epoch >= milestone for milestone in milestones)


# MoCo's setting, used for the tables of DeepCluster and ODC. A learning rate of 30 suits unnormalised features.
STEPLR = LinearProtocol(epochs=100, lr=30.0, milestones=(60, 80))
# SwAV's setting as MMSelfSup implements it.
COSLR = LinearProtocol(epochs=100, lr=0.3, weight_decay=1e-6)
# SimSiam's setting.
LARS = LinearProtocol(epochs=90, lr=1.6, batch=4096, optimizer="lars")
# eval_linear.py of the SwAV code: the official figures of SwAV and DeepCluster-v2. The hyperparameters are those of
# COSLR; only the images differ: that code normalises them with a standard deviation of (0.228, 0.224, 0.225).
SWAV_EVAL = LinearProtocol(epochs=100, lr=0.3, weight_decay=1e-6)


def epoch_batches(n: int, batch: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Yield the batches of an epoch as indices (int64): every sample once, in an order keyed by (seed, epoch).

    The last batch may be smaller. A single remaining sample joins the batch before, since one sample has no batch
    statistics. Indices are sorted within a batch, so that a memory map is read forwards.
    """
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))
    starts = list(range(0, n, batch))
    if n - starts[-1] == 1 and len(starts) > 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        yield order[start:stop].sort().values


def stacked_logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the logits (B, G, C) float32 of x (B, D) from weights (G, C, D) and biases (G, C), by one product."""
    with torch.autocast(x.device.type, enabled=False):
        flat = torch.addmm(bias.flatten(), x.float(), weight.flatten(0, 1).T)
    return flat.unflatten(1, bias.shape)


class StackedHeads:
    """G linear classifiers, one per learning rate, that see the same batches and share one matrix product.

    Weights (G, C, D) start from N(0, 0.01), the same for every learning rate, and biases (G, C) from 0; all are
    float32. A classifier therefore does not depend on the others in the grid.
    """

    def __init__(
        self,
        lrs: tuple[float, ...],
        n_classes: int,
        dim: int,
        protocol: LinearProtocol,
        seed: int,
        device: torch.device,
    ) -> None:
        first = 0.01 * torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(seed))
        self.protocol = protocol
        self.lr = torch.tensor(lrs, device=device)
        self.weight = first.to(device).repeat(len(lrs), 1, 1)
        self.bias = torch.zeros(len(lrs), n_classes, device=device)
        self.momenta = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, G, C) float32 of x (B, D)."""
        return stacked_logits(x, self.weight, self.bias)

    @torch.no_grad()
    def step(self, x: Tensor, true: Tensor, lr_factor: float) -> None:
        """Take one step on the mean cross-entropy of x (B, D) with class indices true (B,)."""
        g = self.logits(x).softmax(-1)  # d loss / d logits = (softmax - one-hot) / B
        g[torch.arange(len(x), device=x.device), :, true] -= 1
        # At high learning rates, softmax returns many denormal numbers, with which processors multiply several times
        # slower. They are too small to change a weight, so they become zero.
        g = F.hardshrink(g, 1e-30).div_(len(x))
        with torch.autocast(x.device.type, enabled=False):
            weight_gradient = (g.flatten(1).T @ x.float()).view_as(self.weight)
        self._update(self.weight, weight_gradient, self.momenta[0], lr_factor)
        self._update(self.bias, g.sum(0), self.momenta[1], lr_factor)

    def _update(self, parameter: Tensor, gradient: Tensor, momentum: Tensor, lr_factor: float) -> None:
        """Take one step of the optimiser; overwrites the gradient."""
        p = self.protocol
        lr = (self.lr * lr_factor).view(-1, *[1] * (parameter.ndim - 1))
        if p.optimizer == "lars":
            # You et al. 2017 (arXiv:1708.03888): the step of a tensor is proportional to its norm; a tensor of zeros
            # (a new bias) steps as in SGD. The learning rate multiplies the gradient before momentum, not the step.
            inner = tuple(range(1, parameter.ndim))
            size = torch.linalg.vector_norm(parameter, dim=inner, keepdim=True)
            slope = torch.linalg.vector_norm(gradient, dim=inner, keepdim=True)
            trust = _LARS_TRUST * size / (slope + p.weight_decay * size + _LARS_EPS)
            trust = trust.where((size > 0) & (slope > 0), 1.0)
            gradient.add_(parameter, alpha=p.weight_decay).mul_(trust * lr)
            lr = torch.ones_like(lr)
        elif p.weight_decay:
            gradient.add_(parameter, alpha=p.weight_decay)
        momentum.mul_(p.momentum).add_(gradient)
        parameter.addcmul_(lr, gradient.add_(momentum, alpha=p.momentum) if p.nesterov else momentum, value=-1)
