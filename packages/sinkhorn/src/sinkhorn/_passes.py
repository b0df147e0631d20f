"""Sinkhorn's iteration on the column scales, and the choice of the backend that computes it.

With column marginals b (K,), row weights a (n,), kernel = exp(scores / epsilon) and f = rho / (rho + epsilon), one
iteration is v = a / (kernel u), then u = (b / (kernel^T v))^f (Chizat et al. 2018, Math. Comp. 87, algorithm 1). Each
row of v depends on its own row of scores only, so one pass over the scores computes both halves. The first iteration
uses v = a.
"""

import importlib.util
from typing import Protocol

import torch
from torch import Tensor

from sinkhorn._problem import Problem


class Passes(Protocol):
    """One backend, bound to one problem."""

    def iterate(self, log_u: Tensor | None) -> Tensor:
        """Return log u (K,) float64 after one more iteration; None starts the first one, with v = a."""

    def codes(self, log_u: Tensor) -> Tensor:
        """Return the codes of the first part, (B, K) float32 with rows that sum to 1. Call it last."""


def passes_for(problem: Problem) -> Passes:
    """Return the Triton backend where it can run, else the torch backend."""
    if runs_on_triton(problem.parts):
        from sinkhorn._triton_passes import TritonPasses  # only torch's CUDA builds install triton

        return TritonPasses(problem)
    from sinkhorn._torch_passes import TorchPasses

    return TorchPasses(problem)


def runs_on_triton(parts: list[Tensor]) -> bool:
    """Whether the Triton backend takes these scores: on CUDA, K <= 16384, and not float64."""
    on_gpu = parts[0].is_cuda and parts[0].shape[1] <= 16384 and all(p.dtype != torch.float64 for p in parts)
    return on_gpu and importlib.util.find_spec("triton") is not None


def solve(passes: Passes, n_iters: int, tolerance: float | None = None) -> tuple[Tensor, int]:
    """Return log u (K,) float64 and the number of iterations done.

    With a tolerance, every iteration but the first makes the host wait for the device.
    """
    log_u = passes.iterate(None)
    for done in range(1, n_iters):
        new = passes.iterate(log_u)
        if tolerance is not None and _spread(new - log_u, new) <= tolerance:
            return log_u, done
        log_u = new
    return log_u, n_iters


def _spread(values: Tensor, log_u: Tensor) -> float:
    """Return the largest minus the smallest of values (K,), over prototypes whose scale is not zero."""
    unused = log_u == -torch.inf
    return float(values.masked_fill(unused, -torch.inf).max() - values.masked_fill(unused, torch.inf).min())
