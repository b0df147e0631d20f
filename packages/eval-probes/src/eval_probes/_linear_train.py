"""Protocols of linear evaluation, and linear classifiers trained side by side.

B batch, G classifiers (one a learning rate), C classes, D dimensions."""

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
    """How a linear classifier on frozen features is trained.

    batch: samples a step. lr: learning rate of the first epoch. milestones: epochs from which it is multiplied by
    gamma; None means a cosine to zero over all epochs. It changes between epochs only, as in the reference codes."""

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
        """Factor of the learning rate in an epoch, counted from 0."""
        if self.milestones is None:
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return step_factor(epoch, self.milestones, self.gamma)


def step_factor(epoch: int, milestones: tuple[int, ...], gamma: float) -> float:
    """gamma to the power of the milestones reached."""
    return gamma ** sum(epoch >= milestone for milestone in milestones)


# MoCo's setting: the tables of DeepCluster and ODC. lr 30 is meant for features that are not normalised.
STEPLR = LinearProtocol(epochs=100, lr=30.0, milestones=(60, 80))
# SwAV's setting, as MMSelfSup has it
COSLR = LinearProtocol(epochs=100, lr=0.3, weight_decay=1e-6)
# SimSiam's setting
LARS = LinearProtocol(epochs=90, lr=1.6, batch=4096, optimizer="lars")
# eval_linear.py of the SwAV code: official SwAV and DeepCluster-v2 numbers. Differs from COSLR in the images alone,
# which are normalised there with a standard deviation of (0.228, 0.224, 0.225).
SWAV_EVAL = LinearProtocol(epochs=100, lr=0.3, weight_decay=1e-6)


def epoch_batches(n: int, batch: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Indices (int64) of the batches of an epoch: every sample once, in an order of (seed, epoch).

    The last batch may be smaller, but not of one sample, which has no batch statistics: that one joins the batch
    before. Sorted within a batch, so that a memory map is read forwards."""
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))
    starts = list(range(0, n, batch))
    if n - starts[-1] == 1 and len(starts) > 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        yield order[start:stop].sort().values


def stacked_logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits (B, G, C) float32 of x (B, D) by G classifiers with weight (G, C, D) and bias (G, C), in one product."""
    with torch.autocast(x.device.type, enabled=False):
        flat = torch.addmm(bias.flatten(), x.float(), weight.flatten(0, 1).T)
    return flat.unflatten(1, bias.shape)


class StackedHeads:
    """G linear classifiers that see the same batches, one for each learning rate; one product computes them all.

    Weights (G, C, D) start from N(0, 0.01), the same for every learning rate, biases (G, C) from 0; all float32. So a
    classifier does not depend on which others are trained beside it."""

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
        """Logits (B, G, C) float32 of x (B, D)."""
        return stacked_logits(x, self.weight, self.bias)

    @torch.no_grad()
    def step(self, x: Tensor, true: Tensor, lr_factor: float) -> None:
        """One update by the mean cross-entropy of x (B, D) with class indices true (B,)."""
        g = self.logits(x).softmax(-1)  # d loss / d logits = (softmax - one-hot) / B
        g[torch.arange(len(x), device=x.device), :, true] -= 1
        # Where a learning rate is high, softmax leaves many numbers too small for float32's full precision, with which
        # processors multiply several times slower; none of them can move a weight.
        g = F.hardshrink(g, 1e-30).div_(len(x))
        with torch.autocast(x.device.type, enabled=False):
            weight_gradient = (g.flatten(1).T @ x.float()).view_as(self.weight)
        self._update(self.weight, weight_gradient, self.momenta[0], lr_factor)
        self._update(self.bias, g.sum(0), self.momenta[1], lr_factor)

    def _update(self, parameter: Tensor, gradient: Tensor, momentum: Tensor, lr_factor: float) -> None:
        """One step of the optimiser; gradient is overwritten."""
        p = self.protocol
        lr = (self.lr * lr_factor).view(-1, *[1] * (parameter.ndim - 1))
        if p.optimizer == "lars":
            # You et al. 2017 (arXiv:1708.03888): each tensor's step is in proportion to its norm; a tensor of zeros
            # (a new bias) steps as in SGD. The learning rate enters the momentum, not the step.
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
