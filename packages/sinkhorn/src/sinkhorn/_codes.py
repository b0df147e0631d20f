"""Scores to codes: Sinkhorn-Knopp with SwAV's order of normalisations (Caron et al. 2020, arXiv:2006.09882).

The definition, for n samples on all ranks, K prototypes and Q (n, K), as the authors' code has it:

    Q = exp(scores / epsilon);  n_iters times: each column of Q /= its sum, then each row of Q /= its sum

(their further divisions by K, n and the total are undone by the next normalisation). A normalisation only rescales
columns or rows, so the codes are diag(v) exp(scores / epsilon) diag(u): the iterations need no matrix but the first.
Only column sums, the mass of each prototype, cross ranks.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from sinkhorn._log_domain import log_domain_codes
from sinkhorn._ranks import Ranks
from sinkhorn._rows import row_blocks

# Where |scores| / epsilon <= 36, float32 holds all that _plain_codes computes: exp(scores / epsilon) and v are within
# e^(+-36) up to a factor K, u within [e^-72, 1], a block's sums below 2^17 e^72 < 1e37. A row's sum is >= e^-36, so
# only terms 1e-22 times smaller can be lost from it. Cosine scores are here for every epsilon >= 0.028.
_PLAIN_LIMIT = 36.0


@torch.no_grad()
def sinkhorn_knopp(
    scores: Tensor,
    *,
    epsilon: float = 0.05,
    n_iters: int = 3,
    extra: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Codes that use every prototype equally: argmax_Q <Q, scores> + epsilon H(Q) (Caron et al. 2020, eq. 3-5).

    scores: (B, K) this rank's samples, cosines as a rule, any float dtype; B may differ between ranks.
    epsilon: in score units, > 0; smaller is harder. n_iters: >= 1; three, as in SwAV, come near equal use, not to it.
    extra: (M, K) scores of other samples, such as a queue's, that count for equal use but get no code; with a group
    each rank passes its own part of them.
    group: ranks that hold the samples together; every rank must call.

    Returns (B, K) float32, rows sum to 1, no gradient. Computed in float32, and in float64 in the log domain where
    |scores| / epsilon > 36, whatever the dtype and autocast; no finite scores give NaN. Raises ValueError, on every
    rank, if a score is not finite (rows are named) or no rank has scores."""
    parts = [_checked("scores", scores)]
    if extra is not None:
        parts.append(_checked("extra", extra))
        if extra.shape[1] != scores.shape[1] or extra.device != scores.device:
            raise ValueError(
                f"extra must have the columns and device of scores, got {tuple(extra.shape)} on {extra.device} "
                f"beside {tuple(scores.shape)} on {scores.device}: score both with the same prototypes"
            )
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be > 0 and finite, got {epsilon}: SwAV uses 0.05")
    if n_iters < 1:
        raise ValueError(f"n_iters must be >= 1, got {n_iters}: SwAV uses 3")
    ranks = Ranks(group)
    with torch.autocast(scores.device.type, enabled=False):
        if _peak(parts, ranks) <= _PLAIN_LIMIT * epsilon:  # of all ranks, so all take the same way
            return _plain_codes(parts, epsilon, n_iters, ranks)
        return log_domain_codes(parts, epsilon, n_iters, ranks)


def _plain_codes(parts: list[Tensor], epsilon: float, n_iters: int, ranks: Ranks) -> Tensor:
    """Codes of parts[0], by scaling vectors; one exponential an entry, and one reading of the matrix an iteration."""
    kernels = [torch.empty(part.shape, dtype=torch.float32, device=part.device) for part in parts]
    mass = torch.zeros(parts[0].shape[1], dtype=torch.float64, device=parts[0].device)
    for part, kernel in zip(parts, kernels, strict=True):
        for block, out in zip(row_blocks(part), row_blocks(kernel), strict=True):
            torch.div(block.float(), epsilon, out=out).exp_()
            mass += out.sum(0)
    for _ in range(n_iters - 1):
        u = _column_scale(mass, ranks)
        mass = torch.zeros_like(mass)
        for kernel in kernels:
            for block in row_blocks(kernel):
                mass += block.T @ (block @ u).reciprocal_()
    u = _column_scale(mass, ranks)
    for block in row_blocks(kernels[0]):
        block *= u
        block /= block.sum(1, keepdim=True)
    return kernels[0]


def _column_scale(mass: Tensor, ranks: Ranks) -> Tensor:
    """(K,) float32, proportional to 1 / mass over all ranks; the largest is 1, so that iterations cannot drift."""
    mass = ranks.sum(mass)  # a prototype's mass is global
    return (mass.min() / mass).float()


def _peak(parts: list[Tensor], ranks: Ranks) -> float:
    """Largest |score| of all ranks; every rank raises, together, if that is not finite or there are no scores."""
    peaks = [torch.stack(part.aminmax()).double().abs().max() for part in parts if part.numel()]
    local = torch.stack(peaks).max() if peaks else parts[0].new_full((), -1.0, dtype=torch.float64)
    peak = ranks.max(local.nan_to_num(nan=float("inf"), posinf=float("inf"))).item()
    if peak < 0:
        raise ValueError("scores are empty on every rank: pass at least one row")
    if peak == float("inf"):
        bad = [(~part.isfinite().all(1)).nonzero().flatten()[:10].tolist() for part in parts]
        named = [f"rows {rows} of {name}" for name, rows in zip(("scores", "extra"), bad, strict=False) if rows]
        where = " and ".join(named) or "rows of another rank"
        raise ValueError(
            f"scores must be finite, got NaN or infinity in {where}: look at the embeddings they come from"
        )
    return float(peak)


def _checked(name: str, scores: Tensor) -> Tensor:
    if scores.ndim != 2 or scores.shape[1] < 1 or not scores.is_floating_point():
        raise ValueError(
            f"{name} must be a float (B, K) with K >= 1, got {scores.dtype} {tuple(scores.shape)}: "
            "pass embeddings @ prototypes.T"
        )
    return scores
