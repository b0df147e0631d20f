"""Scores to codes: Sinkhorn-Knopp with SwAV's order of normalisations (Caron et al. 2020, arXiv:2006.09882).

For the n samples of all ranks, K prototypes and Q (n, K), the authors' code computes

    Q = exp(scores / epsilon);  n_iters times: each column of Q /= its sum, then each row of Q /= its sum

It also divides by K, n and the total, which the next normalisation cancels. A normalisation only rescales columns or
rows, so the codes are diag(v) exp(scores / epsilon) diag(u), and iterations need u and v alone. Ranks exchange only
column sums, the mass of each prototype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from sinkhorn._arrays import as_tensor
from sinkhorn._passes import passes_for, solve
from sinkhorn._problem import Problem
from sinkhorn._ranks import Ranks

if TYPE_CHECKING:
    import numpy as np


@torch.no_grad()
def sinkhorn_knopp(
    scores: Tensor | np.ndarray,
    *,
    epsilon: float = 0.05,
    n_iters: int = 3,
    extra: Tensor | np.ndarray | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Compute codes that use every prototype equally.

    The codes approach argmax_Q <Q, scores> + epsilon H(Q) over all Q that use the prototypes equally (Caron et al.
    2020, arXiv:2006.09882, eq. 3-5). The arithmetic is at least float32 whatever the dtype of the scores and under any
    autocast. Finite scores never give NaN.

    Args:
        scores: (B, K) scores of this rank's samples, any float dtype, usually cosines. B may differ between ranks.
        epsilon: Entropy weight in score units, > 0. Smaller values give harder codes.
        n_iters: Number of iterations, >= 1. Three, as in SwAV, bring the use of prototypes close to equal.
        extra: (M, K) scores of other samples, such as those of a queue. They count for equal use but get no codes.
            With a group, each rank passes its own part of them.
        group: Process group whose ranks hold the samples together; every rank must call. None: this process alone.

    Returns:
        Codes (B, K), float32, without gradient, on the device of the scores (the CPU for NumPy input). Rows sum to 1.

    Raises:
        NotFinite: A score is NaN or infinite; the message names the rows. Raised on every rank. On CUDA, where Triton
            is used (K <= 16384, not float64), values are not checked, so that the host never waits and the call can
            be captured in a CUDA graph: there all codes are NaN instead.
        ValueError: No rank has scores, or an argument has a wrong shape, dtype or value.

    Example:
        ```python
        codes = sinkhorn_knopp(prototypes(z), epsilon=0.05, extra=prototypes(queue.local()[0]))
        ```
    """
    parts = checked_scores(scores, extra)
    problem = Problem(parts, checked_epsilon(epsilon), Ranks(group))
    with torch.autocast(parts[0].device.type, enabled=False):
        passes = passes_for(problem)
        log_u, _ = solve(passes, checked_n_iters(n_iters))
        return passes.codes(log_u)


def checked_scores(scores: Tensor | np.ndarray, extra: Tensor | np.ndarray | None) -> list[Tensor]:
    """Return the scores, followed by the extra ones if there are any, as tensors on one device."""
    scores = as_tensor(scores)
    extra = None if extra is None else as_tensor(extra, scores.device)
    parts = [scores] if extra is None else [scores, extra]
    for name, part in zip(("scores", "extra"), parts, strict=False):
        if part.ndim != 2 or part.shape[1] < 1 or not part.is_floating_point():
            raise ValueError(
                f"{name} must be a float (B, K) with K >= 1, got {part.dtype} {tuple(part.shape)}: "
                "pass embeddings @ prototypes.T"
            )
    if extra is not None and (extra.shape[1] != scores.shape[1] or extra.device != scores.device):
        raise ValueError(
            f"extra must have the columns and device of scores, got {tuple(extra.shape)} on {extra.device} "
            f"beside {tuple(scores.shape)} on {scores.device}: score both with the same prototypes"
        )
    return parts


def checked_epsilon(epsilon: float) -> float:
    """Return epsilon, or raise ValueError if it is not positive and finite."""
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be > 0 and finite, got {epsilon}: SwAV uses 0.05")
    return epsilon


def checked_n_iters(n_iters: int) -> int:
    """Return n_iters, or raise ValueError if it is below 1."""
    if n_iters < 1:
        raise ValueError(f"n_iters must be >= 1, got {n_iters}: SwAV uses 3")
    return n_iters
