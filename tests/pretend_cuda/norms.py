"""The five operations of torch's SyncBatchNorm, which exist for CUDA only, on the CPU tensors inside.

x: (N, C, ...); mean, invstd, sums: (C,) in float32 (or x's own type if that is wider)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _across(x: Tensor) -> list[int]:
    return [d for d in range(x.ndim) if d != 1]


def _columns(values: Tensor, x: Tensor) -> Tensor:
    return values.view([1, -1] + [1] * (x.ndim - 2))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(_wide(x), _across(x), correction=0)
    return mean, (var + eps).rsqrt()


def _gather_stats(
    x: Tensor,
    means: Tensor,  # (ranks, C)
    invstds: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,  # (ranks,)
) -> tuple[Tensor, Tensor]:
    n, weights = counts.sum(), (counts / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    var = (weights * (invstds.double() ** -2 - eps + (means.double() - mean).square())).sum(0).to(means.dtype)
    if running_mean is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        running_var.lerp_((var * n / (n - 1)).to(running_var.dtype), momentum)
    return mean, (var + eps).rsqrt()


def _elemt(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    y = (_wide(x) - _columns(mean, x)) * _columns(invstd, x)
    y = y if weight is None else y * _columns(weight, x)
    return (y if bias is None else y + _columns(bias, x)).to(x.dtype)


def _backward_reduce(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> tuple[Tensor | None, ...]:
    dy, across = _wide(grad), _across(x)
    sum_dy, sum_dy_xmu = dy.sum(across), (dy * (_wide(x) - _columns(mean, x))).sum(across)
    to = sum_dy.dtype if weight is None else weight.dtype
    of_weight, of_bias = (sum_dy_xmu * invstd).to(to), sum_dy.to(to)
    return sum_dy, sum_dy_xmu, of_weight if weight_g else None, of_bias if bias_g else None


def _backward_elemt(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    n = count.sum()
    centred = _wide(x) - _columns(mean, x)
    dx = _wide(grad) - _columns(sum_dy / n, x) - centred * _columns(invstd.square() * sum_dy_xmu / n, x)
    dx = dx * _columns(invstd if weight is None else invstd * weight, x)
    return dx.to(x.dtype)


STAND_INS: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": _stats,
    "batch_norm_gather_stats_with_counts": _gather_stats,
    "batch_norm_elemt": _elemt,
    "batch_norm_backward_reduce": _backward_reduce,
    "batch_norm_backward_elemt": _backward_elemt,
}
