"""Sampling uniformly over clusters, as DeepCluster trains (Caron et al. 2018, arXiv:1807.05520, section 3.3)."""

import torch
from torch import Tensor

from cluster_memory._sources import Array, as_tensor


def balanced_indices(assignments: Array, n: int, seed: int) -> Tensor:
    """Draws sample indices so that every non-empty cluster is visited equally often.

    Each of C non-empty clusters gives s = n // C + 1 draws: with replacement if it has at most s members, without
    otherwise. All draws are shuffled and the first n are kept. The result depends on the arguments only.

    Args:
        assignments: (N,) integer tensor or NumPy array. Samples with a negative value are unassigned and never drawn.
        n: Number of draws, at least 0.
        seed: Seed of the draws.

    Returns:
        (n,) int64 tensor of sample indices, on the device of `assignments` (CPU for an array).

    Raises:
        ValueError: If no sample is assigned to a cluster, or an argument has the wrong shape.

    Example:
        ```python
        order = balanced_indices(kmeans.assignments_, n=len(features), seed=epoch)
        ```
    """
    assignments = as_tensor(assignments)
    if assignments.ndim != 1 or n < 0:
        raise ValueError(f"expected assignments (N,) and n >= 0, got {tuple(assignments.shape)} and {n}")
    generator = torch.Generator().manual_seed(seed)
    # Samples grouped by cluster, in random order within each group: the head of a group is a draw without replacement.
    shuffled = torch.randperm(len(assignments), generator=generator).to(assignments.device)
    shuffled = shuffled[assignments[shuffled] >= 0]
    if not len(shuffled):
        raise ValueError(f"no sample is assigned to a cluster, got {len(assignments)} unassigned ones: cluster first")
    grouped = shuffled[assignments[shuffled].argsort(stable=True)]
    _, sizes = torch.unique_consecutive(assignments[grouped], return_counts=True)
    per_cluster = n // len(sizes) + 1
    draws = torch.rand(len(sizes), per_cluster, generator=generator, dtype=torch.float64).to(sizes.device)
    with_replacement = (draws * sizes[:, None]).long()
    head = torch.arange(per_cluster, device=sizes.device)
    within = torch.where(sizes[:, None] > per_cluster, head, with_replacement)
    chosen = grouped[(sizes.cumsum(0) - sizes)[:, None] + within].flatten()
    return chosen[torch.randperm(len(chosen), generator=generator)[:n].to(chosen.device)]
