"""The optimal-transport problem that the solvers receive."""

from dataclasses import dataclass

from torch import Tensor

from sinkhorn._ranks import Ranks


@dataclass(frozen=True)
class Problem:
    """One problem: scores, marginals and constants.

    Attributes:
        parts: (B, K) scores and, optionally, (M, K) extra scores that count but get no codes.
        epsilon: Entropy weight, in score units.
        ranks: Process group that holds the rows together.
        weights: float32 weight in [0, 1] of every row, one (rows,) tensor per part; None means equal weights.
        log_shares: (K,) float64 logarithms of the column marginals, up to a constant; None means equal shares.
        exponent: rho / (rho + epsilon); 1 enforces the column marginals exactly.
    """

    parts: list[Tensor]
    epsilon: float
    ranks: Ranks
    weights: list[Tensor] | None = None
    log_shares: Tensor | None = None
    exponent: float = 1.0
