"""Seeded weight initialisation.

Layers are created without values and then filled from a local generator, so building a network neither reads nor
advances torch's global generator. All values are drawn on the CPU: a seed gives the same weights on every device.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


def cpu_generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def empty_conv(*args: Any, kind: type[nn.Conv2d] = nn.Conv2d, **kwargs: Any) -> nn.Conv2d:
    """Create an nn.Conv2d, or a subclass, with uninitialised weights that the caller must fill."""
    return skip_init(kind, *args, device=torch.empty(0).device, **kwargs)


def empty_linear(in_dim: int, out_dim: int) -> nn.Linear:
    """Create an nn.Linear with uninitialised weights that the caller must fill."""
    return skip_init(nn.Linear, in_dim, out_dim, device=torch.empty(0).device)


@torch.no_grad()
def kaiming_normal_fan_out_(weight: Tensor, generator: torch.Generator) -> None:
    """Fill a convolution weight (out, in, kh, kw) by He et al. 2015 (arXiv:1502.01852), gain of ReLU, fan_out mode."""
    if weight.is_meta:  # a meta tensor has no values, and drawing some would allocate memory for nothing
        return
    fan_out = weight.shape[0] * weight[0, 0].numel()
    weight.copy_(torch.randn(weight.shape, generator=generator, device="cpu") * math.sqrt(2 / fan_out))


@torch.no_grad()
def default_linear_(linear: nn.Linear, generator: torch.Generator) -> None:
    """Fill weight and bias as nn.Linear does by default: uniform in +-1/sqrt(in_features)."""
    bound = 1 / math.sqrt(linear.in_features)
    for parameter in linear.parameters():
        parameter.copy_((torch.rand(parameter.shape, generator=generator, device="cpu") * 2 - 1) * bound)
