"""Codes under marginals other than equal ones: given, or only leant towards; to a tolerance; from an earlier start."""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sinkhorn._codes import checked_epsilon, checked_n_iters, checked_scores
from sinkhorn._errors import NotFinite
from sinkhorn._marginals import column_shares, row_weights
from sinkhorn._passes import Problem, passes_for, runs_on_triton, solve
from sinkhorn._ranks import Ranks


class Transport(NamedTuple):
    """codes (B, K) float32, rows sum to 1; log_scales (K,) float64, a `start` for scores near these, the same on every
    rank; n_iters, column normalisations done: the limit, if no tolerance ended them earlier."""

    codes: Tensor
    log_scales: Tensor
    n_iters: int


@torch.no_grad()
def optimal_transport(
    scores: Tensor,
    *,
    epsilon: float = 0.05,
    n_iters: int = 3,
    row_marginals: Tensor | None = None,
    column_marginals: Tensor | None = None,
    rho: float = math.inf,
    tolerance: float | None = None,
    start: Tensor | None = None,
    extra: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Transport:
    """Codes argmax_Q <Q, scores> + epsilon H(Q) - rho KL(column sums of Q | column_marginals), rows as row_marginals.

    With defaults its codes are those of `sinkhorn_knopp`, which explains scores, epsilon, n_iters, extra, group;
    rows are normalised last, so they hold exactly and columns as far as n_iters and rho allow.

    Marginals are real, >= 0, and count by their ratios alone, so their sums need not agree; None is equal ones.
    row_marginals: (B,), with `extra` (B + M,), of this rank's rows: what each counts for prototypes' use. A row of 0
    counts for nothing and gets its code. column_marginals: (K,), the same on every rank: the share of each prototype.
    One of 0 gets no code at all.
    rho: in score units, > 0; strength that holds columns to their marginals (Chizat et al. 2018, Math. Comp. 87,
    arXiv:1607.05816: the scaling update is raised to rho / (rho + epsilon)). Infinite is exact; towards 0 codes
    become the softmax of scores / epsilon over the prototypes with a share.
    tolerance: stop where the logarithms of use over share differ, between prototypes, by no more (Hilbert's metric): at
    0.01 each is within 1 % of its share, or of what rho lets it be. Each iteration but the first then waits for the
    device, once. start: (K,), `log_scales` of an earlier call with this epsilon: rows are first normalised by it.

    Raises as `sinkhorn_knopp` does, on every rank; ValueError for marginals that are negative, not finite or all 0, and
    NotFinite for a start that is not finite where there is a share. Where Triton runs those make every code NaN
    instead."""
    parts, ranks = checked_scores(scores, extra), Ranks(group)
    if not rho > 0:
        raise ValueError(f"rho must be > 0, got {rho}: infinity holds columns to their marginals exactly")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be > 0 or None, got {tolerance}: 0.01 is within 1 %")
    check = not runs_on_triton(parts)  # there, looking at values would wait for the device
    shares = None if column_marginals is None else column_shares(column_marginals, scores, check)
    problem = Problem(
        parts,
        checked_epsilon(epsilon),
        ranks,
        weights=None if row_marginals is None else row_weights(row_marginals, parts, ranks, check),
        log_shares=shares,
        exponent=1.0 if rho == math.inf else rho / (rho + epsilon),
        log_columns=rho != math.inf or start is not None,
    )
    if start is not None:
        start = _checked_start(start, scores, shares, check)
    with torch.autocast(scores.device.type, enabled=False):
        passes = passes_for(problem)
        log_u, done = solve(passes, checked_n_iters(n_iters), tolerance, start)
        return Transport(passes.codes(log_u), log_u - log_u.max(), done)


def _checked_start(start: Tensor, scores: Tensor, shares: Tensor | None, check: bool) -> Tensor:
    if start.shape != scores.shape[1:] or start.device != scores.device or not start.is_floating_point():
        raise ValueError(
            f"start must be a float ({scores.shape[1]},) on {scores.device}, got {start.dtype} {tuple(start.shape)} "
            f"on {start.device}: pass log_scales of an earlier call, or None"
        )
    start = start.double()
    if shares is not None:
        start = start.masked_fill(shares == -torch.inf, -torch.inf)
    if check and not start[True if shares is None else shares > -torch.inf].isfinite().all():
        raise NotFinite(
            "start must be finite for every prototype with a share, got NaN or infinity: pass log_scales of a call "
            "in which these prototypes had a share, or None"
        )
    return start
