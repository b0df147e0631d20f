"""Synchronised batch norm on any device; torch's own works on GPUs only."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from steady_runs import BadInput
from torch import Tensor, nn

from pretrain.settings import Training


def batch_norm_group(settings: Training, group: Any) -> Any:
    """The process group whose ranks share batch statistics with this one; None if each has its own. Collective.

    Raises BadInput if `--sync-bn-group` does not divide the number of processes."""
    if group is None or not settings.sync_bn:
        return None
    world, size = dist.get_world_size(group), settings.sync_bn_group
    if size is None or size >= world:
        return group
    if world % size:
        raise BadInput(f"--sync-bn-group {size} does not divide {world} processes; take a divisor, or leave it out")
    own, _ = dist.new_subgroups(size)
    return own


def synchronise_batch_norm(network: nn.Module, group: Any, *, cuda: bool) -> nn.Module:
    """Make the batch norms of `network` use the statistics of all ranks of `group`. Names in its state dict stay."""
    if cuda:
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network, group)
        return synced
    if isinstance(network, nn.BatchNorm1d | nn.BatchNorm2d):
        # only the class changes, so that parameters, buffers and references to the module stay valid
        network.__class__ = _SyncBatchNorm1d if isinstance(network, nn.BatchNorm1d) else _SyncBatchNorm2d
        network.group = group
    for child in network.children():
        synchronise_batch_norm(child, group, cuda=cuda)
    return network


class _Sum(torch.autograd.Function):
    """Sum over ranks, in the forward and the backward pass."""

    @staticmethod
    def forward(context: Any, x: Tensor, group: Any) -> Tensor:
        context.group = group
        y = x.clone()
        dist.all_reduce(y, group=group)
        return y

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone()
        dist.all_reduce(gradient, group=context.group)
        return gradient, None


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Equal to `nn.BatchNorm*d` on the concatenated rows of all ranks, forward and backward.

    Statistics are computed in float32 in two passes: the mean, then the squared differences."""

    group: Any

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        across = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.float()
        n_here = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        total = _Sum.apply(torch.cat([wide.sum(across), n_here]), self.group)
        n = total[-1].detach()
        mean = total[:-1] / n
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(across), self.group) / n
        self._update_running(mean.detach(), variance.detach() * n / (n - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, unbiased: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum or 0.0)
        self.running_var.lerp_(unbiased, momentum or 0.0)


class _SyncBatchNorm1d(_SyncBatchNorm, nn.BatchNorm1d):
    pass


class _SyncBatchNorm2d(_SyncBatchNorm, nn.BatchNorm2d):
    pass
