"""Marginals as the passes want them; only ratios count."""

import torch
from torch import Tensor

from sinkhorn._ranks import Ranks


def row_weights(marginals: Tensor, parts: list[Tensor], ranks: Ranks, check: bool) -> list[Tensor]:
    """float32 weights of the rows of each part, the largest of all ranks 1; collective."""
    n = sum(len(part) for part in parts)
    weights = _checked("row_marginals", marginals, n, parts[0])
    bad = ~((weights >= 0) & weights.isfinite())
    high = torch.where(bad, torch.inf, weights).amax() if n else weights.new_zeros(())
    high = ranks.max(high)
    if check and not 0 < high.item() < float("inf"):  # the same on every rank, so that all raise
        what = "all 0" if high == 0 else f"other values in rows {bad.nonzero().flatten()[:10].tolist()} of this rank"
        raise ValueError(f"row_marginals must be finite, >= 0 and not all 0, got {what}: pass what each sample counts")
    weights = torch.where(bad, torch.nan, weights / high).float()
    return list(weights.split([len(part) for part in parts]))


def column_shares(marginals: Tensor, scores: Tensor, check: bool) -> Tensor:
    """(K,) float64 logarithms of the shares."""
    shares = _checked("column_marginals", marginals, scores.shape[1], scores)
    bad = ~((shares >= 0) & shares.isfinite())
    if check and (bad.any() or not shares.any()):
        what = f"other values in columns {bad.nonzero().flatten()[:10].tolist()}" if bad.any() else "all 0"
        raise ValueError(
            f"column_marginals must be finite, >= 0 and not all 0, got {what}: pass the share of each prototype"
        )
    return torch.where(bad, torch.nan, shares / shares.sum()).log()


def _checked(name: str, marginals: Tensor, n: int, scores: Tensor) -> Tensor:
    if marginals.shape != (n,) or marginals.device != scores.device or marginals.is_complex():
        raise ValueError(
            f"{name} must be real ({n},) on {scores.device}, got {marginals.dtype} {tuple(marginals.shape)} "
            f"on {marginals.device}: pass one value for each"
        )
    return marginals.detach().double()
