"""Sinkhorn-Knopp where exp(scores / epsilon) leaves float32: the same normalisations on logarithms, in float64."""

import torch
from torch import Tensor

from sinkhorn._ranks import Ranks
from sinkhorn._rows import row_blocks


def log_domain_codes(parts: list[Tensor], epsilon: float, n_iters: int, ranks: Ranks) -> Tensor:
    """Codes (B, K) float32 of parts[0], with marginals over all parts of all ranks.

    With log u (K,) the logarithm of the column scales, normalising rows is a softmax of scores / epsilon + log u, and
    normalising columns is log u -= log(column sums of that softmax). No column sum underflows: after columns sum to 1
    one entry of each is >= 1 / n, in a row whose sum is <= K, so the next column sum is >= 1 / (n K). float64, since
    |scores| / epsilon of 1000 leaves float32 an error of 6e-5 in the exponent."""
    high = parts[0].new_full((parts[0].shape[1],), -torch.inf, dtype=torch.float64)
    for part in parts:
        if len(part):
            high = torch.maximum(high, part.amax(0).double())
    high = ranks.max(high)
    mass = torch.zeros_like(high)
    for part in parts:
        for block in row_blocks(part, torch.float64):
            mass += ((block.double() - high) / epsilon).exp_().sum(0)
    log_u = -high / epsilon - ranks.sum(mass).log()
    for _ in range(n_iters - 1):
        mass = torch.zeros_like(high)
        for part in parts:
            for block in row_blocks(part, torch.float64):
                mass += _normalised_rows(block, epsilon, log_u).sum(0)
        log_u -= ranks.sum(mass).log()
    codes = torch.empty(parts[0].shape, dtype=torch.float32, device=parts[0].device)
    for block, out in zip(row_blocks(parts[0], torch.float64), row_blocks(codes, torch.float64), strict=True):
        out.copy_(_normalised_rows(block, epsilon, log_u))
    return codes


def _normalised_rows(block: Tensor, epsilon: float, log_u: Tensor) -> Tensor:
    return (block.double() / epsilon + log_u).softmax(1)
