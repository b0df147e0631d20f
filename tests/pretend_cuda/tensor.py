"""A tensor that says it is on cuda:0 or cuda:1: a CPU tensor inside, CUDA's rules outside."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from pretend_cuda import log, norms, pinned, ranks, rules

NO_KERNEL = {"_local_scalar_dense", "alias", "detach", "empty", "empty_like", "empty_strided", "equal", "is_same_size"}
NO_KERNEL |= {"lift_fresh", "new_empty", "new_empty_strided", "record_stream", "set_"}

current_index = [0]  # of torch.cuda.current_device()


class PretendedTensor(torch.Tensor):
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> PretendedTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
        )
        self.inner = inner
        return self

    # as in a tensor of CUDA, Python sees the operations after autograd and autocast
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["inner"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], device: torch.device, size: Any, stride: Any) -> PretendedTensor:
        return PretendedTensor(inner["inner"], device)

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def record_stream(self, stream: object) -> None:
        pass

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )

    __array__ = numpy

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype}, {self.device})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 and spec else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            new = self.detach().clone()
            new = nn.Parameter(new) if isinstance(self, nn.Parameter) else new
            memo[id(self)] = new.requires_grad_(self.requires_grad)
        copied: Tensor = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # torch.save copies to the host, one tensor at a time


class PretendedMode(TorchDispatchMode):
    """For operations that have no operand on the device yet: torch.zeros(device="cuda"), x.to("cuda")."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is nothing to skip, and to do so imports torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def unwrap(value: Any) -> Any:
    """The CPU tensors inside, through tuples, lists, dicts and dataclasses; no copy, and nothing is logged."""
    if isinstance(value, Tensor):
        return value.inner if isinstance(value, PretendedTensor) else value
    if isinstance(value, tuple | list):
        parts = [unwrap(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: unwrap(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        new = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(new, field.name, unwrap(getattr(value, field.name)))
        return new
    return value


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, if a pretended device has a part in it."""
    tensors = [*_tensors_of(args), *_tensors_of(kwargs.values())] if kwargs else list(_tensors_of(args))
    here = [t for t in tensors if isinstance(t, PretendedTensor)]
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted)
    if wanted is not None and wanted.type == "cuda" and wanted.index is None:
        wanted = torch.device("cuda", current_index[0])
    if not here and (wanted is None or wanted.type != "cuda"):
        return _on_the_host(func, args, kwargs)
    if torch.is_inference_mode_enabled() and func._can_decompose():
        with (
            PretendedMode()
        ):  # without autograd, operations such as `to` and `reshape` arrive before they are taken apart
            return func.decompose(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    device = wanted if wanted is not None and wanted.type == "cuda" else here[0].device
    host = [t for t in tensors if not isinstance(t, PretendedTensor)]
    rules.check(rules.Call(func, name, args, kwargs, here, host, device))
    if name == "_to_copy":
        return _to_copy(func, args[0], kwargs, args[0].device if wanted is None else wanted)
    if name == "copy_":
        return _copy_(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    if not view and name not in NO_KERNEL:
        log.launch(name)
    # in inference mode, a view of a tensor from before it is none of its own tensors either
    with torch.inference_mode(False) if view and not args[0].is_inference() else contextlib.nullcontext():
        out = norms.STAND_INS.get(name, func)(*unwrap(args), **_host_options(unwrap(kwargs)))
        if wanted is not None and wanted.type == "cpu":
            return out
        out = _wrap(out, device)
        return return_and_correct_aliasing(func, args, kwargs, out) if view or func._schema.is_mutable else out


def _tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors_of(value)


def _wrap(out: Any, device: torch.device) -> Any:
    if isinstance(out, Tensor):
        return PretendedTensor(out, device)
    return type(out)(_wrap(part, device) for part in out) if isinstance(out, list | tuple) else out


def _host_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    if kwargs.get("device") is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    return {k: v for k, v in kwargs.items() if k != "pin_memory"}


def _on_the_host(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func.namespace == "c10d" and list(_tensors_of(args)):
        ranks.refuse_host_tensors(func.__name__)
    if not kwargs.get("pin_memory"):
        return func(*args, **kwargs)
    return pinned.pin(func(*args, **{k: v for k, v in kwargs.items() if k != "pin_memory"}))


def _to_copy(func: Any, source: Tensor, kwargs: dict[str, Any], to: torch.device) -> Tensor:
    options = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking", "pin_memory")}
    _log_copy(source, to, blocking=not kwargs.get("non_blocking", False), pinned_host=None)
    out: Tensor = func(unwrap(source), **options)
    return out if to.type == "cpu" else PretendedTensor(out, to)


def _copy_(target: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
    _log_copy(source, target.device, blocking=not non_blocking, pinned_host=target)
    unwrap(target).copy_(unwrap(source))
    return target


def _log_copy(source: Tensor, to: torch.device, *, blocking: bool, pinned_host: Tensor | None) -> None:
    if source.device.type == "cpu":
        log.copy("to device", blocking=blocking, pinned=pinned.is_pinned(source))
    elif to.type == "cpu":  # torch takes pinned memory by itself for a copy that does not wait
        log.copy("to host", blocking=blocking, pinned=pinned_host is None or pinned.is_pinned(pinned_host))
    else:
        log.launch("copy_")
