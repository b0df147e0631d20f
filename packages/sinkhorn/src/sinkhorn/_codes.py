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

from sinkhorn._passes import Problem, passes_for, solve
from sinkhorn._ranks import Ranks


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

    Returns (B, K) float32, rows sum to 1, no gradient, computed in at least float32 whatever the dtype and autocast; no
    finite scores give NaN. Raises, on every rank, NotFinite if a score is not finite (rows are named) and ValueError if
    no rank has scores. Where Triton runs (CUDA, K <= 16384, not float64) nothing waits for the device, so that the call
    can be captured in a CUDA graph: there a score that is not finite makes every code NaN instead."""
    problem = Problem(checked_scores(scores, extra), checked_epsilon(epsilon), Ranks(group))
    with torch.autocast(scores.device.type, enabled=False):
        passes = passes_for(problem)
        log_u, _ = solve(passes, checked_n_iters(n_iters))
        return passes.codes(log_u)


def checked_scores(scores: Tensor, extra: Tensor | None) -> list[Tensor]:
    """scores, and extra where there is one."""
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
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be > 0 and finite, got {epsilon}: SwAV uses 0.05")
    return epsilon


def checked_n_iters(n_iters: int) -> int:
    if n_iters < 1:
        raise ValueError(f"n_iters must be >= 1, got {n_iters}: SwAV uses 3")
    return n_iters
