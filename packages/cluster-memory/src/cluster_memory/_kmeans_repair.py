"""Repair of empty clusters: by splitting during the iterations, by moving centroids after the last assignment."""

import torch
from torch import Tensor

from cluster_memory._nearest import Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._sums import add_rows

# How far the two halves of a split move away from the mean, as a share of the cluster's radius. Any small value gives
# the same cut: the plane through the mean.
_NUDGE = 1 / 256


def split_clusters(
    means: Tensor, counts: Tensor, labels: Tensor, distance: Tensor, rows: Rows, frame: Frame, ranks: Ranks
) -> int:
    """Gives each empty cluster half of a cluster with large inertia. Edits means (K, D) float64; returns how many.

    The mean c of the donor becomes c - h, and that of the empty cluster c + h, where h points at the donor's farthest
    member. The next assignment then cuts the donor at c. Each donor is split once; clusters that are still empty wait
    for the next iteration."""
    empty = (counts == 0).nonzero().flatten()
    k = len(counts)
    inertia = torch.zeros(k, dtype=torch.float64, device=means.device)
    add_rows(inertia, labels, distance.double())
    ranks.sum(inertia)
    inertia[counts < 2] = 0
    donors = inertia.argsort(descending=True, stable=True)[: len(empty)]
    donors = donors[inertia[donors] > 0]
    empty = empty[: len(donors)]
    if not len(donors):
        return 0
    farthest = torch.zeros(k, device=means.device).scatter_reduce_(0, labels, distance, "amax")
    at_top = (distance == ranks.max(farthest)[labels]).nonzero().flatten()
    member = torch.full((k,), rows.n_total, device=means.device)
    member.scatter_reduce_(0, labels[at_top], at_top + rows.first, "amin")
    towards = frame.enter(rows.take(ranks.min(member)[donors])) - means[donors]
    means[empty] = means[donors] + _NUDGE * towards
    means[donors] -= _NUDGE * towards
    return len(donors)


def fill_clusters(centroids: Tensor, labels: Tensor, rows: Rows, frame: Frame, ranks: Ranks) -> tuple[Tensor, int]:
    """Moves the centroids of empty clusters onto the rows farthest from their centroids until no cluster is empty.

    Edits centroids (K, D) and labels (N,) in place, so that each label stays that of the nearest centroid. Returns the
    distances (N,) and how many centroids moved. A moved centroid keeps the row it was moved to, so each centroid moves
    at most once. Rows are compared with the moved centroids only, which is less work than another assignment. Clusters
    stay empty only if fewer than K rows differ."""
    framed = frame.enter(centroids).clone()
    distance = torch.empty(rows.n, device=framed.device)
    for part, block in rows:
        distance[part] = _exact(frame.enter(block), framed[labels[part]], frame)
    moved = 0
    while True:
        counts = ranks.sum(torch.bincount(labels, minlength=len(framed)))
        empty = (counts == 0).nonzero().flatten()
        owners = _farthest_distinct(distance, len(empty), rows, frame, ranks)
        empty = empty[: len(owners)]
        if not len(empty):
            return distance, moved
        moved += len(empty)
        taken = rows.take(owners)
        framed[empty] = frame.enter(taken)
        centroids[empty] = framed[empty] if frame.cosine else taken
        nearest = Nearest(framed[empty], frame.cosine)
        for part, block in rows:
            entered = frame.enter(block)
            closest, which = nearest(entered)
            better = (closest < distance[part]).nonzero().flatten()
            winners = empty[which[better]]
            labels[part.start + better] = winners
            distance[part.start + better] = _exact(entered[better], framed[winners], frame)
        mine = (owners >= rows.first) & (owners < rows.first + rows.n)
        labels[owners[mine] - rows.first] = empty[mine]  # even if rounding makes another centroid nearer
        distance[owners[mine] - rows.first] = 0


def _exact(rows: Tensor, centroids: Tensor, frame: Frame) -> Tensor:
    """Distances (M,) of rows (M, D) to centroids (M, D) by subtraction: exactly zero for equal rows, unlike distances
    from a matrix product."""
    squared = (rows - centroids).square_().sum(1)
    return torch.where(rows.any(1), squared / 2, 0) if frame.cosine else squared


def _farthest_distinct(distance: Tensor, m: int, rows: Rows, frame: Frame, ranks: Ranks) -> Tensor:
    """Global numbers of up to m rows with the largest distances, farthest first. No two of the rows are equal and none
    is at distance zero. At least one row is returned if any qualifies."""
    if m == 0:
        return torch.empty(0, dtype=torch.int64, device=distance.device)
    top, local = distance.topk(min(4 * m, rows.n))
    top, index = ranks.concatenate(top), ranks.concatenate(local + rows.first)
    index, top = index[top > 0], top[top > 0]
    index, order = index.sort()
    index = index[top[order].argsort(descending=True, stable=True)][: 4 * m]
    if not len(index):
        return index
    _, group = torch.unique(frame.enter(rows.take(index)), dim=0, return_inverse=True)
    position = torch.arange(len(index), device=index.device)
    first = torch.full_like(position, len(index)).scatter_reduce_(0, group, position, "amin")
    return index[first[first < len(index)].sort().values[:m]]
