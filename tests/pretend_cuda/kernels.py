"""Triton kernels on pretended tensors: the interpreter runs them, or a stand-in where it would take minutes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from pretend_cuda import log
from pretend_cuda.tensor import PretendedTensor, current_index, unwrap

_interpreted = InterpretedFunction.run


def _nearest(a: dict[str, Any]) -> None:
    """What `cluster_memory._triton_nearest._nearest` computes, by the same products in another order."""
    best, index = (a["bias"] + a["alpha"] * (a["rows"] @ a["centroids"].T)).min(1)
    a["best_out"].copy_(best)
    a["index_out"].copy_(index)


_real_render: Callable[..., Any] | None = None  # multicrop_aug's own, once it is imported
STAND_INS: dict[str, Callable[[dict[str, Any]], None]] = {"_nearest": _nearest}


def _run(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
    arguments = dict(zip(self.arg_names, args, strict=False)) | kwargs
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            _check_pointer(self.__name__, name, value)
    log.launch(self.__name__, triton=True)
    if self.__name__ in STAND_INS:
        STAND_INS[self.__name__](unwrap(arguments))
    else:
        _interpreted(self, *unwrap(args), grid=grid, warmup=warmup, **unwrap(kwargs))


def _check_pointer(kernel: str, argument: str, tensor: Tensor) -> None:
    at = f"{argument} of {kernel}, at {log.place()}"
    if not isinstance(tensor, PretendedTensor):
        raise ValueError(f"Pointer argument cannot be accessed from Triton (cpu tensor?): {at}")
    if tensor.device.index != current_index[0]:
        raise RuntimeError(
            f"an illegal memory access was encountered: {at} is on {tensor.device}, and the kernel was launched on "
            f"cuda:{current_index[0]}, the current device (no `with torch.cuda.device_of(...)` around it?)"
        )


def _render(images: Any, plan: Any, rows: Tensor | None, *args: Any) -> list[Tensor]:
    """In place of `render_triton`: the crops of the CPU's backend, bit for bit."""
    from multicrop_aug._cpu import render_cpu

    tensors = [plan.sizes, *(t for group in plan.groups for t in group.tensors().values())]
    tensors += [images] if isinstance(images, Tensor) else [images.pixels, images.places]
    with torch.cuda.device_of(plan.sizes):
        for tensor in [*tensors, *([] if rows is None else [rows])]:
            _check_pointer("render_crops", "a tensor", tensor)
    for _ in range(len(plan.groups) * (2 if "blur" in plan.order else 1)):
        log.launch("render_crops", triton=True)
    crops = render_cpu(unwrap(images), unwrap(plan), unwrap(rows), *args)
    return [PretendedTensor(crop, plan.sizes.device) for crop in crops]


@contextlib.contextmanager
def pretended(*, stand_ins: bool) -> Iterator[None]:
    """stand_ins: crops by the CPU's backend; False: by the kernel in the interpreter, a second for a few images."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(InterpretedFunction, "run", _run))
        import multicrop_aug._triton

        global _real_render
        _real_render = _real_render or multicrop_aug._triton.render_triton
        # inside another `pretended`, whose stand-in must go again where none is wanted
        chosen = _render if stand_ins else _real_render
        stack.enter_context(patch.object(multicrop_aug._triton, "render_triton", chosen))
        yield
