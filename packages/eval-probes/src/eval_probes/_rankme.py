"""Effective rank of features: detects collapse without labels."""

import torch

from ._arrays import Array
from ._neighbours import as_rows

_ROWS = 4096


@torch.no_grad()
def rankme(features: Array) -> float:
    """Effective rank: exp of the entropy of the normalised singular values (RankMe).

    Garrido et al. 2023 (arXiv:2210.02885, eq. 1), without its additive 1e-7; like the paper, without centring. The
    singular values come from the Gram matrix of the shorter side, summed in float64, and are accurate to about 1e-8 of
    the largest.

    Args:
        features: (N, D), any float dtype.

    Returns:
        A number in [1, min(N, D)]; near 1: collapsed. 0 if all features are zero.

    Raises:
        ValueError: If features is not a float matrix with at least one row, or a row contains NaN or infinity.
    """
    features = as_rows(features, "features")
    x = features.T if len(features) < features.shape[1] else features  # (long side, short side)
    gram = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for block in x.split(_ROWS):
        block = block.double()
        gram += block.T @ block
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if sigma.sum() == 0:
        return 0.0
    return float(torch.special.entr(sigma / sigma.sum()).sum().exp())
