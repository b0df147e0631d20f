"""Cutting one cluster in two by 2-means, with random draws that depend on a key only."""

import torch
from torch import Tensor

from cluster_memory._sums import running_sums

_MASK = 2**64 - 1


def uniforms(n: int, *key: int) -> list[float]:
    """n floats in [0, 1) that depend only on the integers of the key (SplitMix64, Steele et al. 2014)."""
    state = 0
    for part in key:
        state = _mixed(state ^ (part & _MASK))
    return [_mixed(state + i * 0x9E3779B97F4A7C15) / 2.0**64 for i in range(1, n + 1)]


def _mixed(z: int) -> int:
    """One step of SplitMix64, rounded down to 53 bits."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return (z ^ (z >> 31)) >> 11 << 11  # 53 bits, so that the quotient by 2^64 is below 1


def cut_in_two(rows: Tensor, *key: int, n_iters: int = 20) -> Tensor:
    """Cuts M >= 2 rows (M, D) by 2-means. Returns the side (M,) bool of each row; both sides have members.

    Starts from two k-means++ rows and stops after n_iters iterations, or when no row changes sides. Ties stay on side 0
    (False). If 2-means leaves one side empty, as for equal rows, the rows are halved at random. Computes in float64."""
    if len(rows) < 2:
        raise ValueError(f"two sides need two rows, got {len(rows)}")
    rows = rows.double()
    first, second = uniforms(2, *key)
    one = rows[int(first * len(rows))]
    weights = (rows - one).square().sum(1)
    cumulative = running_sums(weights, len(rows), weights.amax())
    side = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    if cumulative[-1] > 0:
        # .double(): a Python float times an int64 tensor would give float32
        drawn = torch.searchsorted(cumulative, (second * cumulative[-1].double()).to(cumulative.dtype), right=True)
        two = rows[drawn.clamp_max(len(rows) - 1)]
        total = rows.sum(0)
        for _ in range(n_iters):
            # x is nearer to two than to one if x.(two - one) > (|two|^2 - |one|^2) / 2
            normal = two - one
            now = rows @ normal > (two + one) @ normal / 2
            n_two = int(now.sum())
            if n_two in (0, len(rows)):
                break
            if torch.equal(now, side):
                return side
            side = now
            sum_two = now.double() @ rows
            one, two = (total - sum_two) / (len(rows) - n_two), sum_two / n_two
    if side.any() and not side.all():
        return side
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(int(first * 2**53)))
    return (shuffled < len(rows) // 2).to(rows.device)
