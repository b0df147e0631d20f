"""Sinkhorn's iteration on the column scales alone, and who computes it: torch anywhere, Triton on a GPU.

With shares b (K,), row weights a (n,), kernel = exp(scores / epsilon) and exponent f = rho / (rho + epsilon), an
iteration is  v = a / (kernel u);  u = (b / (kernel^T v))^f  (Chizat et al. 2018, Math. Comp. 87, algorithm 1), and
one pass over the scores does both halves: a row needs only its own sum. Before the first, v = a.
"""

import importlib.util
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sinkhorn._ranks import Ranks


@dataclass(frozen=True)
class Problem:
    """What is to be solved. parts: (B, K) scores, and extra ones; weights: (rows,) float32 in [0, 1] of each part, None
    if all are 1; log_shares: (K,) float64, up to a constant, None if equal; exponent: f, 1 for exact column marginals.
    log_columns: a column's mass may leave float32, as under f < 1 or after a start of the caller's."""

    parts: list[Tensor]
    epsilon: float
    ranks: Ranks
    weights: list[Tensor] | None = None
    log_shares: Tensor | None = None
    exponent: float = 1.0
    log_columns: bool = False


class Passes(Protocol):
    def iterate(self, log_u: Tensor | None) -> Tensor:
        """log u (K,) float64 after one more iteration; None stands for v = a, before the first."""

    def codes(self, log_u: Tensor) -> Tensor:
        """kernel diag(u) of the first part with rows that sum to 1, (B, K) float32; the last call on this object."""


def passes_for(problem: Problem) -> Passes:
    if runs_on_triton(problem.parts):
        from sinkhorn._triton_passes import TritonPasses  # triton comes with torch's CUDA builds only

        return TritonPasses(problem)
    from sinkhorn._torch_passes import TorchPasses

    return TorchPasses(problem)


def runs_on_triton(parts: list[Tensor]) -> bool:
    """CUDA scores whose rows fit on a multiprocessor; float64 ones keep their precision in torch."""
    on_gpu = parts[0].is_cuda and parts[0].shape[1] <= 16384 and all(p.dtype != torch.float64 for p in parts)
    return on_gpu and importlib.util.find_spec("triton") is not None


def solve(
    passes: Passes, n_iters: int, tolerance: float | None = None, log_u: Tensor | None = None
) -> tuple[Tensor, int]:
    """log u (K,) float64, and how many iterations it took; with a tolerance each but the first waits for the device."""
    for done in range(n_iters):
        new = passes.iterate(log_u)
        if tolerance is not None and log_u is not None and spread(new - log_u, new) <= tolerance:
            return log_u, done
        log_u = new
    assert log_u is not None  # n_iters >= 1
    return log_u, n_iters


def spread(values: Tensor, log_u: Tensor) -> float:
    """Largest less smallest value (K,), over the prototypes whose scale is not zero."""
    unused = log_u == -torch.inf
    return float(values.masked_fill(unused, -torch.inf).max() - values.masked_fill(unused, torch.inf).min())
