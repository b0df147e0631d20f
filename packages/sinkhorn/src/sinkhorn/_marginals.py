"""Checks and normalises marginals; only their ratios matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkhorn._arrays import as_tensor
from sinkhorn._ranks import Ranks

if TYPE_CHECKING:
    import numpy as np


def row_weights(marginals: Tensor | np.ndarray, parts: list[Tensor], ranks: Ranks, check: bool) -> list[Tensor]:
    """Return one float32 weight per row for each part, scaled so that the largest of all ranks is 1. Collective."""
    n = sum(len(part) for part in parts)
    weights = _checked("row_marginals", marginals, n, parts[0])
    bad = ~((weights >= 0) & weights.isfinite())
    high = torch.where(bad, torch.inf, weights).amax() if n else weights.new_zeros(())
    high = ranks.max(high)
    if check and not 0 < high.item() < float("inf"):  # every rank sees the same maximum, so all ranks raise together
        what = "all 0" if high == 0 else f"other values in rows {bad.nonzero().flatten()[:10].tolist()} of this rank"
        raise ValueError(
            f"row_marginals must be finite, >= 0 and not all 0, got {what}: pass the weight of each sample"
        )
    weights = torch.where(bad, torch.nan, weights / high).float()
    return list(weights.split([len(part) for part in parts]))


def column_shares(marginals: Tensor | np.ndarray, scores: Tensor, check: bool) -> Tensor:
    """Return the logarithms of the shares, (K,) float64."""
    shares = _checked("column_marginals", marginals, scores.shape[1], scores)
    bad = ~((shares >= 0) & shares.isfinite())
    if check and (bad.any() or not shares.any()):
        what = f"other values in columns {bad.nonzero().flatten()[:10].tolist()}" if bad.any() else "all 0"
        raise ValueError(
            f"column_marginals must be finite, >= 0 and not all 0, got {what}: pass the share of each prototype"
        )
    return torch.where(bad, torch.nan, shares / shares.sum()).log()


def _checked(name: str, marginals: Tensor | np.ndarray, n: int, scores: Tensor) -> Tensor:
    marginals = as_tensor(marginals, scores.device)
    if marginals.shape != (n,) or marginals.device != scores.device or marginals.is_complex():
        raise ValueError(
            f"{name} must be real ({n},) on {scores.device}, got {marginals.dtype} {tuple(marginals.shape)} "
            f"on {marginals.device}: pass one value for each"
        )
    return marginals.detach().double()
