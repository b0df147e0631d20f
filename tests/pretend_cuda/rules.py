"""CUDA's rules for one operation: what raises, what waits, what does not repeat. Tables to add to as torch changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretend_cuda import generators, log


@dataclass
class Call:
    """One aten operation on pretended tensors, as the dispatcher sees it."""

    func: Any  # torch.ops.aten.*
    name: str  # without its overload: "add_", "_to_copy"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    here: list[Tensor]  # operands on a pretended device
    host: list[Tensor]  # operands on the CPU
    device: torch.device  # of the operation

    def __str__(self) -> str:
        operands = [f"{t.device} {tuple(t.shape)} {str(t.dtype)[6:]}" for t in [*self.here, *self.host]]
        return f"aten::{self.name} of {', '.join(operands)}, at {log.place()}"


# Kernels whose launcher reads a result back, or needs its size, before it returns.
WAIT = {
    "_linalg_eigh",
    "_linalg_svd",
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "linalg_eig",
    "linalg_eigh",
    "linalg_lstsq",
    "masked_select",
    "multinomial",
    "nms",  # torchvision
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "unique_dim_consecutive",
}
WAIT_NAMES = {"_local_scalar_dense": "item"}

# Float sums by atomic additions, or in an order that differs from run to run. index_put_ with accumulate is none of
# them: on a GPU it sorts by index first.
UNREPEATABLE = {
    "_embedding_bag",
    "bincount",  # with weights
    "cumsum",
    "cumsum_",
    "histc",
    "index_add",
    "index_add_",
    "index_reduce",
    "index_reduce_",
    "put_",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "scatter_reduce_",
}

COPIES = {"_to_copy", "copy_", "set_"}
INDEXING = {"_index_put_impl_", "_unsafe_index", "_unsafe_index_put", "index", "index_put", "index_put_"}

# Not pointwise by their tag, and yet a 0-dim CPU tensor may stand beside CUDA tensors.
TAKES_HOST_SCALAR = {"fill", "fill_", "masked_fill", "masked_fill_", "_foreach_mul", "_foreach_mul_", "_foreach_div"}
TAKES_HOST_SCALAR |= {"_foreach_add", "_foreach_add_", "_foreach_div_"}
# Pointwise, and yet it may not.
TAKES_NO_HOST_SCALAR = {"clamp", "clamp_"}

ONE_DTYPE = {"addmm", "addmv", "baddbmm", "bmm", "convolution", "_convolution", "dot", "mm", "mv", "linear"}


def check(call: Call) -> None:
    """Raises what CUDA would raise; logs waits and what does not repeat. Copies are not looked at here."""
    _check_generator(call)
    if call.name in COPIES:
        return
    if call.name in INDEXING:
        _check_indexing(call)
    else:
        _check_one_device(call)
    if call.name in ONE_DTYPE and len({t.dtype for t in call.here if t.is_floating_point()}) > 1:
        raise RuntimeError(f"expected all operands to have the same dtype: {call} (no autocast around it?)")
    looks_at_sizes = (call.name == "repeat_interleave" and call.kwargs.get("output_size") is None) or (
        call.name == "segment_reduce" and call.kwargs.get("lengths") is not None and not call.kwargs.get("unsafe")
    )
    if call.name in WAIT or looks_at_sizes:
        log.wait(WAIT_NAMES.get(call.name, call.name))
    if call.name in UNREPEATABLE and _sums_floats(call):
        log.unrepeatable(call.name)


def _check_generator(call: Call) -> None:
    generator = call.kwargs.get("generator")
    if generator is not None and not generators.is_cuda(generator):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu': {call}")


def _check_one_device(call: Call) -> None:
    if len({t.device for t in call.here} | {call.device}) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two: {call}")
    if not call.host or not call.here:  # without operands here it is one such as zeros_like(host, device="cuda")
        return
    scalars = torch.Tag.pointwise in call.func.tags and call.name not in TAKES_NO_HOST_SCALAR
    scalars = scalars or call.name in TAKES_HOST_SCALAR
    writes_to_host = call.func._schema.is_mutable and call.args[0] is call.host[0]
    if not scalars or writes_to_host or any(t.dim() for t in call.host):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda and cpu: {call}"
        )
    log.host_scalar(call.name)


def _check_indexing(call: Call) -> None:
    target, indices = call.args[:2]
    values = call.args[2] if len(call.args) > 2 else None
    if target.device.type == "cpu":
        raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor (cpu): {call}")
    given = [i for i in indices if i is not None]
    if len({t.device for t in call.here}) > 1:
        raise RuntimeError(f"indices should be on the same device as the indexed tensor: {call}")
    for index in given:
        if index.device.type == "cpu":
            log.wait("index on the CPU")
    if values is not None and values.device.type == "cpu" and values.dim() > 0:
        raise RuntimeError(f"Expected all tensors to be on the same device, got values on the CPU: {call}")
    masks = [i for i in given if i.dtype in (torch.bool, torch.uint8)]
    # one number through one mask is masked_fill, which does not wait
    fills = values is not None and values.device.type == "cpu" and len(given) == 1
    if masks and not fills:
        log.wait("boolean index")


def _sums_floats(call: Call) -> bool:
    target = call.args[0]
    if call.name == "bincount":
        return len(call.here) > 1
    if {"amax", "amin"} & {a for a in (*call.args, *call.kwargs.values()) if isinstance(a, str)}:
        return False
    if "index_put" in call.name:
        accumulates = call.args[3] if len(call.args) > 3 else call.kwargs.get("accumulate", False)
        return bool(accumulates) and target.is_floating_point()
    return isinstance(target, Tensor) and target.is_floating_point()
