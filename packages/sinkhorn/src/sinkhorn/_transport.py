"""Codes under marginals that are not equal, or only approximate; optionally iterated to a tolerance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sinkhorn._codes import checked_epsilon, checked_n_iters, checked_scores
from sinkhorn._marginals import column_shares, row_weights
from sinkhorn._passes import passes_for, runs_on_triton, solve
from sinkhorn._problem import Problem
from sinkhorn._ranks import Ranks

if TYPE_CHECKING:
    import numpy as np


class Transport(NamedTuple):
    """Result of `optimal_transport`.

    Attributes:
        codes: (B, K) float32, rows sum to 1.
        log_scales: (K,) float64, the logarithm of each prototype's scale, the same on every rank. The codes are
            (scores / epsilon + log_scales).softmax(1), and the same formula gives codes for other samples.
        n_iters: Column normalisations done: the limit, unless a tolerance ended them earlier.
    """

    codes: Tensor
    log_scales: Tensor
    n_iters: int


@torch.no_grad()
def optimal_transport(
    scores: Tensor | np.ndarray,
    *,
    epsilon: float = 0.05,
    n_iters: int = 3,
    row_marginals: Tensor | np.ndarray | None = None,
    column_marginals: Tensor | np.ndarray | None = None,
    rho: float = math.inf,
    tolerance: float | None = None,
    extra: Tensor | np.ndarray | None = None,
    group: dist.ProcessGroup | None = None,
) -> Transport:
    """Compute codes under given marginals.

    The codes approach argmax_Q <Q, scores> + epsilon H(Q) - rho KL(column sums of Q | column_marginals), with the row
    sums of Q equal to row_marginals (Chizat et al. 2018, Math. Comp. 87, arXiv:1607.05816). With the default arguments
    they are the codes of `sinkhorn_knopp`. Rows are normalised last: row sums hold exactly, column sums as closely as
    n_iters and rho allow.

    Marginals are real and >= 0. Only their ratios matter, so their sums need not agree. None means equal marginals.

    Args:
        scores: (B, K), as in `sinkhorn_knopp`.
        epsilon: As in `sinkhorn_knopp`.
        n_iters: Number of iterations; the limit if there is a tolerance.
        row_marginals: (B,) weights of this rank's samples, (B + M,) with `extra`. A sample of weight 0 has no
            influence on the use of prototypes but gets a code.
        column_marginals: (K,) share of each prototype, the same on every rank. A prototype of share 0 gets no mass.
        rho: How strongly the column marginals are enforced, in score units, > 0. Infinity enforces them exactly.
            Towards 0, codes become the softmax of scores / epsilon over the prototypes with a share.
        tolerance: Stop once the logarithms of (use / share) differ between prototypes by at most this (Hilbert's
            metric). At 0.01 each prototype is within 1 % of its share, or of what rho lets it be. Every iteration but
            the first then makes the host wait for the device.
        extra: (M, K), as in `sinkhorn_knopp`.
        group: As in `sinkhorn_knopp`.

    Returns:
        Codes, log scales and the number of iterations, on the device of the scores (the CPU for NumPy input).

    Raises:
        NotFinite: A score is NaN or infinite. Raised on every rank.
        ValueError: Marginals are negative, not finite or all 0, or another argument is invalid. Where Triton is used,
            bad marginals, like bad scores, make every code NaN instead.

    Example:
        ```python
        found = optimal_transport(scores, column_marginals=class_shares, n_iters=1000, tolerance=0.01)
        new_codes = (new_scores / 0.05 + found.log_scales).softmax(1)
        ```
    """
    parts, ranks = checked_scores(scores, extra), Ranks(group)
    if not rho > 0:
        raise ValueError(f"rho must be > 0, got {rho}: infinity enforces the column marginals exactly")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be > 0 or None, got {tolerance}: 0.01 is within 1 %")
    check = not runs_on_triton(parts)  # on Triton, looking at values would wait for the device
    shares = None if column_marginals is None else column_shares(column_marginals, parts[0], check)
    problem = Problem(
        parts,
        checked_epsilon(epsilon),
        ranks,
        weights=None if row_marginals is None else row_weights(row_marginals, parts, ranks, check),
        log_shares=shares,
        exponent=1.0 if rho == math.inf else rho / (rho + epsilon),
    )
    with torch.autocast(parts[0].device.type, enabled=False):
        passes = passes_for(problem)
        log_u, done = solve(passes, checked_n_iters(n_iters), tolerance)
        return Transport(passes.codes(log_u), log_u - log_u.max(), done)
