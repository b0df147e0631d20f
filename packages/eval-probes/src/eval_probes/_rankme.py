"""Collapse seen without labels."""

import torch

from ._arrays import Array
from ._neighbours import as_rows

_ROWS = 4096


@torch.no_grad()
def rankme(features: Array) -> float:
    """Effective rank of features (N, D): exp of the entropy of the normalised singular values, 1 <= rank <= min(N, D).

    RankMe (Garrido et al. 2023, arXiv:2210.02885, eq. 1), without its additive 1e-7 and, as there, without centring;
    near 1 means collapse, and features that are all zero give 0. Singular values come from the Gram matrix of the
    shorter side, summed in float64, hence to about 1e-8 of the largest. Raises ValueError if features is not a finite
    float matrix with at least one row."""
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
