"""LARC and two versions of LARS: optimisers that scale the step of each tensor by |p| / |g|.

LARS is from You et al. 2017, arXiv:1708.03888. Its implementations differ, so each recipe uses the one of its authors:

              from            lr in the buffer    if a norm is 0           biases and norms
LARC          apex: SwAV      no                  g, no decay              like all others
LARS          MMSelfSup       yes                 lam = 1, with decay      like all others
ClippedLARS   solo-learn      no, and lam <= 1    g, no decay              g, no decay

p is one tensor of parameters, g its gradient, m its momentum buffer, wd the weight decay, lam the local rate, and |.|
the L2 norm of the whole tensor. Groups with the same options are updated together, and the host never waits for the
device: choices that depend on a norm are made on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

Group = dict[str, Any]


class _LayerwiseSGD(Optimizer, ABC):
    """What the three share: options, checks and momentum. They differ in `_move`."""

    def __init__(
        self, params: ParamsT, lr: float, momentum: float, weight_decay: float, trust: float, eps: float, **more: Any
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "eps": eps}
        super().__init__(params, options | more)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; missing options are those of the constructor. Raises ValueError for a value out of range."""
        options = self.defaults | param_group
        for name in ("lr", "momentum", "weight_decay", "trust", "eps"):
            if not options[name] >= 0:
                raise ValueError(f"{name} must be at least 0, got {options[name]}")
        if options["momentum"] >= 1:
            raise ValueError(f"momentum must be below 1, got {options['momentum']}")
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype not in (torch.float32, torch.float64):  # bfloat16 would round a step of 0.001 |p| away
                raise ValueError(f"parameters must be float32 or float64, got {p.dtype}: keep them so and use autocast")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. Parameters without one, and their momentum, stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for params, group in self._alike():
            params = [p for p in params if p.grad is not None]
            if params:  # foreach operations refuse an empty list
                self._move(params, [p.grad for p in params if p.grad is not None], group)
        return loss

    def _alike(self) -> list[tuple[list[Tensor], Group]]:
        """Merge groups with the same options, for fewer kernel launches on a GPU."""
        found: dict[tuple[Any, ...], tuple[list[Tensor], Group]] = {}
        for group in self.param_groups:
            device = group["params"][0].device if group["params"] else None
            options = (device, *(group.get(name) for name in self.defaults))
            found.setdefault(options, ([], group))[0].extend(group["params"])
        return list(found.values())

    @abstractmethod
    def _move(self, params: list[Tensor], grads: list[Tensor], group: Group) -> None:
        """Update the parameters; the part that differs between the variants."""

    def _momentum(self, params: list[Tensor], updates: list[Tensor], group: Group) -> list[Tensor]:
        """m <- momentum m + update, starting from m = 0. Returns m, or the update itself if momentum is 0."""
        if group["momentum"] == 0:
            return updates
        for p in params:
            if p not in self.state:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        return buffers

    def _descend(self, params: list[Tensor], updates: list[Tensor], group: Group) -> None:
        """The step of SGD: m <- momentum m + update, p <- p - lr m."""
        torch._foreach_add_(params, self._momentum(params, updates, group), alpha=-group["lr"])


class LARC(_LayerwiseSGD):
    """Apex's LARC, not clipping, around SGD, as SwAV and VISSL use it (You et al. 2017, arXiv:1708.03888).

    If |p| and |g| are not 0: lam = trust |p| / (|g| + wd |p| + eps), g <- lam (g + wd p); else g stays as it is,
    without weight decay. Then m <- momentum m + g, p <- p - lr m. Biases and norms are no exception.
    params: float32 or float64, a group on one device. Raises ValueError for options out of range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, trust, eps)

    def _move(self, params: list[Tensor], grads: list[Tensor], group: Group) -> None:
        p_norm, g_norm = _norms(params), _norms(grads)
        lam = _local_rate(p_norm, g_norm, group)
        self._descend(params, _scaled(params, grads, _else_as_it_is(lam, p_norm, g_norm), group), group)


class LARS(_LayerwiseSGD):
    """MMSelfSup's LARS, with the learning rate inside the momentum buffer (You et al. 2017, arXiv:1708.03888).

    lam = trust |p| / (|g| + wd |p| + eps), but 1 if |p| or |g| is 0, and 1 in a group with `exclude` True (its default
    is False). Then m <- momentum m + lr lam (g + wd p), p <- p - m: what m holds keeps the lr of its own step.
    params: float32 or float64, a group on one device. Raises ValueError for options out of range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, trust, eps, exclude=False)

    def _move(self, params: list[Tensor], grads: list[Tensor], group: Group) -> None:
        p_norm, g_norm = _norms(params), _norms(grads)
        lam = _local_rate(p_norm, g_norm, group)
        lam = torch.where((p_norm == 0) | (g_norm == 0) | group["exclude"], 1.0, lam)
        updates = _scaled(params, grads, group["lr"] * lam, group)
        torch._foreach_sub_(params, self._momentum(params, updates, group))


class ClippedLARS(_LayerwiseSGD):
    """solo-learn's LARS, clipped so that no step is longer than SGD's (You et al. 2017, arXiv:1708.03888).

    If |p| and |g| are not 0: lam = min(trust |p| / (|g| + wd |p| + eps) / lr, 1), g <- lam (g + wd p); else, and in
    every 1-D tensor (bias, norm), g stays as it is, without weight decay. Then m <- momentum m + g, p <- p - lr m.
    params: float32 or float64, a group on one device. Raises ValueError for options out of range."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.02,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, trust, eps)

    def _move(self, params: list[Tensor], grads: list[Tensor], group: Group) -> None:
        vectors = [i for i, p in enumerate(params) if p.ndim == 1]
        others = [i for i, p in enumerate(params) if p.ndim != 1]
        if vectors:
            self._descend([params[i] for i in vectors], [grads[i] for i in vectors], group)
        if others:
            params, grads = [params[i] for i in others], [grads[i] for i in others]
            p_norm, g_norm = _norms(params), _norms(grads)
            lam = (_local_rate(p_norm, g_norm, group) / group["lr"]).clamp(max=1)  # lr = 0 gives 1
            self._descend(params, _scaled(params, grads, _else_as_it_is(lam, p_norm, g_norm), group), group)


def _norms(tensors: list[Tensor]) -> Tensor:
    """|.| of n tensors, (n,)."""
    return torch.stack(torch._foreach_norm(tensors))


def _local_rate(p_norm: Tensor, g_norm: Tensor, group: Group) -> Tensor:
    """trust |p| / (|g| + wd |p| + eps), (n,)."""
    return group["trust"] * p_norm / (g_norm + group["weight_decay"] * p_norm + group["eps"])


def _else_as_it_is(lam: Tensor, p_norm: Tensor, g_norm: Tensor) -> Tensor:
    """lam, but if |p| or |g| is 0, the factor with which lam (g + wd p) equals g: 1 if p is 0, else 0."""
    return torch.where(p_norm == 0, 1.0, torch.where(g_norm == 0, 0.0, lam))


def _scaled(params: list[Tensor], grads: list[Tensor], lam: Tensor, group: Group) -> list[Tensor]:
    """lam (g + wd p) in new tensors; lam is (n,)."""
    updates = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
    torch._foreach_mul_(updates, lam.unbind())
    return updates
