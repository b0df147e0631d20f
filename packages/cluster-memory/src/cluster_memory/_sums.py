"""Sums by label and running sums that are repeatable bit for bit on every device.

On a GPU, index_add_, scatter_add_ and cumsum add floats in no fixed order, so their last bits differ between calls.
There we use index_put_, which sorts first, segment sums, which add row by row, and running sums of integers."""

import torch
from torch import Tensor

from cluster_memory import _device


def add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> None:
    """Adds rows (B, D) to sums (K, D) at index (B,), in place."""
    if _device.on_gpu(sums.device):
        sums.index_put_((index,), rows, accumulate=True)
    else:
        sums.index_add_(0, index, rows)


def segment_sums(labels: Tensor, rows: Tensor, k: int) -> Tensor:
    """Sums (K, D) of rows (B, D) by label (B,). Rows of a label are added in their order."""
    order, lengths = labels.argsort(stable=True), torch.bincount(labels, minlength=k)
    return torch.segment_reduce(rows[order], "sum", lengths=lengths, axis=0)


def running_sums(weights: Tensor, n: int, highest: Tensor) -> Tensor:
    """Running sums (N,) of weights (N,) float64 >= 0: float64 on a CPU, int64 in units of n highest / 2^62 on a GPU.

    n is the number of weights of all ranks and highest () the largest one, so that all ranks use the same unit. The
    rounding to int64 is finer than that of a float64 sum. A weight of 0 adds exactly nothing in both."""
    if not _device.on_gpu(weights.device):
        return weights.cumsum(0)
    # a weight is at most 2^62 / n units, so the sum of all of them stays within int64
    unit = highest.double().clamp_min(torch.finfo(torch.float64).tiny)
    return (weights / unit * (2.0**62 / max(1, n))).long().cumsum(0)
