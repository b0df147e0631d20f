"""Several processes with a pretended GPU each: gloo answers where NCCL is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable

_nccl: list[bool] = [False]  # whether the process group was asked for as NCCL


def refuse_host_tensors(operation: str) -> None:
    """For a collective of CPU tensors."""
    if _nccl[0]:
        raise RuntimeError(f"No backend type associated with device type cpu: {operation} of a tensor on the host")


_init, _backend = dist.init_process_group, dist.get_backend


def _init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
    kwargs.pop("device_id", None)
    _nccl[0] = backend in (None, "nccl")
    _init("gloo", *args, **kwargs)


def _get_backend(group: Any = None) -> str:
    return "nccl" if _nccl[0] else str(_backend(group))


def _device_of_objects(group: Any = None) -> str:
    return "cuda" if _nccl[0] else "cpu"


class DistributedDataParallel(nn.Module):
    """Stands in for torch's, whose C++ part talks to the driver: the same parameters and buffers at the start, the mean
    of all ranks' gradients when a backward pass is over. Not pretended: buckets, and what overlaps with what."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **options: Any) -> None:
        super().__init__()
        self.module, self.options = module, options
        self.device = next(module.parameters()).device
        if self.device.type == "cuda" and device_ids is not None:
            ids = [torch.device("cuda", d) if isinstance(d, int) else torch.device(d) for d in device_ids]
            if ids != [self.device]:
                raise ValueError(
                    f"DistributedDataParallel: device_ids {device_ids}, and parameters are on {self.device}"
                )
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.detach(), 0)
        self.parameters_with_gradients = [p for p in module.parameters() if p.requires_grad]
        for p in self.parameters_with_gradients:
            p.register_post_accumulate_grad_hook(self._reduce_when_done)
        self.waiting = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and self.options.get(
            "forward_sync_buffers", self.options.get("broadcast_buffers", True)
        ):
            for buffer in self.module.buffers():
                dist.broadcast(buffer, 0)
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self.waiting = True
        yield
        self.waiting = False

    def _reduce_when_done(self, parameter: Tensor) -> None:
        if not self.waiting:
            self.waiting = True
            Variable._execution_engine.queue_callback(self._reduce)

    def _reduce(self) -> None:
        self.waiting = False
        for p in self.parameters_with_gradients:
            if p.grad is None:
                raise RuntimeError(
                    "Expected to have finished reduction: a parameter got no gradient in this backward pass"
                )
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    import lightning_fabric.strategies.ddp
    import torch.nn.parallel.distributed

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(dist, "init_process_group", _init_process_group))
        stack.enter_context(patch.object(dist, "get_backend", _get_backend))
        stack.enter_context(patch.object(dist.distributed_c10d, "_get_object_coll_device", _device_of_objects))
        for module in (torch.nn.parallel, torch.nn.parallel.distributed, lightning_fabric.strategies.ddp):
            stack.enter_context(patch.object(module, "DistributedDataParallel", DistributedDataParallel))
        yield
    _nccl[0] = False
