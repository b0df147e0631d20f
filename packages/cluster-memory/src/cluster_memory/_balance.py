"""Sampling uniformly over clusters, as DeepCluster trains (Caron et al. 2018, arXiv:1807.05520, section 3.3)."""

import torch
from torch import Tensor


def balanced_indices(assignments: Tensor, n: int, seed: int) -> Tensor:
    """n sample indices (n,) int64, shuffled, that visit every non-empty cluster equally often.

    assignments: (N,) int64, negative for unassigned samples, which are never drawn. Each of C non-empty clusters gives
    s = n // C + 1 draws, with replacement if it has at most s members, without otherwise; all draws are shuffled and
    the first n kept. Depends on the arguments only. Raises ValueError if nothing is assigned."""
    if assignments.ndim != 1 or n < 0:
        raise ValueError(f"expected assignments (N,) and n >= 0, got {tuple(assignments.shape)} and {n}")
    generator = torch.Generator().manual_seed(seed)
    # samples grouped by cluster, in random order inside each: the head of a group is a draw without replacement
    shuffled = torch.randperm(len(assignments), generator=generator).to(assignments.device)
    shuffled = shuffled[assignments[shuffled] >= 0]
    if not len(shuffled):
        raise ValueError(f"no sample is assigned to a cluster, got {len(assignments)} unassigned ones: cluster first")
    grouped = shuffled[assignments[shuffled].argsort(stable=True)]
    _, sizes = torch.unique_consecutive(assignments[grouped], return_counts=True)
    per_cluster = n // len(sizes) + 1
    draws = torch.rand(len(sizes), per_cluster, generator=generator, dtype=torch.float64).to(sizes.device)
    again = (draws * sizes[:, None]).long()
    places = torch.where(sizes[:, None] > per_cluster, torch.arange(per_cluster, device=sizes.device), again)
    chosen = grouped[(sizes.cumsum(0) - sizes)[:, None] + places].flatten()
    return chosen[torch.randperm(len(chosen), generator=generator)[:n].to(chosen.device)]
