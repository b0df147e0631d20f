"""Seeded initialisation. Modules are built empty and filled from a local generator, so that construction neither reads
nor moves torch's global random stream; draws happen on the CPU, so a seed gives the same weights on any device."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


def cpu_generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def empty_conv(*args: Any, kind: type[nn.Conv2d] = nn.Conv2d, **kwargs: Any) -> nn.Conv2d:
    """nn.Conv2d, or a kind of it, with uninitialised weights: the caller must fill them."""
    return skip_init(kind, *args, device=torch.empty(0).device, **kwargs)


def empty_linear(in_dim: int, out_dim: int) -> nn.Linear:
    """nn.Linear with uninitialised weights: the caller must fill them."""
    return skip_init(nn.Linear, in_dim, out_dim, device=torch.empty(0).device)


@torch.no_grad()
def kaiming_normal_fan_out_(weight: Tensor, generator: torch.Generator) -> None:
    """He et al. 2015 (arXiv:1502.01852) for ReLU, variance kept in the backward pass; weight: (out, in, kh, kw)."""
    if weight.is_meta:  # shapes only; the draw would take the memory that meta spares
        return
    fan_out = weight.shape[0] * weight[0, 0].numel()
    weight.copy_(torch.randn(weight.shape, generator=generator, device="cpu") * math.sqrt(2 / fan_out))


@torch.no_grad()
def default_linear_(linear: nn.Linear, generator: torch.Generator) -> None:
    """The law of PyTorch's own nn.Linear: weight and bias uniform in +-1/sqrt(in_features)."""
    bound = 1 / math.sqrt(linear.in_features)
    for parameter in linear.parameters():
        parameter.copy_((torch.rand(parameter.shape, generator=generator, device="cpu") * 2 - 1) * bound)


@torch.no_grad()
def init_linear_(linear: nn.Linear, std: float = 0.01, *, seed: int = 0) -> nn.Linear:
    """Fill a classification head in place: weight from N(0, std^2), bias 0, as DeepCluster and ODC start theirs.

    Returns the same module. The draw depends on seed and shape only, never on the global generator."""
    draw = torch.randn(linear.weight.shape, generator=cpu_generator(seed), device="cpu")
    linear.weight.copy_(draw * std)
    if linear.bias is not None:
        linear.bias.zero_()
    return linear
