"""Empty clusters: filled during the iterations by splitting, and after the last assignment by moving centroids."""

import torch
from torch import Tensor

from cluster_memory._nearest import Nearest
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._sums import add_rows

# Two centroids this share of a radius either side of a mean cut its cluster along the plane through the mean.
_NUDGE = 1 / 256


def split_clusters(
    means: Tensor, counts: Tensor, labels: Tensor, distance: Tensor, rows: Rows, frame: Frame, ranks: Ranks
) -> int:
    """Give each empty cluster half of one with large inertia; edits means (K, D) float64 in place, returns how many.

    The donor's mean c becomes c - h and the empty one c + h, where h points at the donor's farthest member: the next
    assignment cuts the donor at c. Every donor gives once; what is still empty waits for the next iteration."""
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
    """Move the centroids of empty clusters onto the rows farthest from their own until no cluster is empty.

    Edits centroids (K, D) and labels (N,) in place so that labels stay nearest to the centroids; returns the distances
    (N,) and how many centroids moved. A moved centroid owns its row for good, so each moves at most once, and only the
    moved ones are compared: less work than one more assignment. Stops early only where fewer than K rows differ."""
    places = frame.enter(centroids).clone()
    distance = torch.empty(rows.n, device=places.device)
    for part, block in rows:
        distance[part] = _exact(frame.enter(block), places[labels[part]], frame)
    moved = 0
    while True:
        counts = ranks.sum(torch.bincount(labels, minlength=len(places)))
        empty = (counts == 0).nonzero().flatten()
        owners = _farthest_distinct(distance, len(empty), rows, frame, ranks)
        empty = empty[: len(owners)]
        if not len(empty):
            return distance, moved
        moved += len(empty)
        taken = rows.take(owners)
        places[empty] = frame.enter(taken)
        centroids[empty] = places[empty] if frame.cosine else taken
        nearest = Nearest(places[empty], frame.cosine)
        for part, block in rows:
            entered = frame.enter(block)
            closest, which = nearest(entered)
            better = (closest < distance[part]).nonzero().flatten()
            winners = empty[which[better]]
            labels[part.start + better] = winners
            distance[part.start + better] = _exact(entered[better], places[winners], frame)
        mine = (owners >= rows.first) & (owners < rows.first + rows.n)
        labels[owners[mine] - rows.first] = empty[mine]  # even where rounding finds another centroid nearer
        distance[owners[mine] - rows.first] = 0


def _exact(rows: Tensor, centroids: Tensor, frame: Frame) -> Tensor:
    """Distance by subtraction: exactly zero for equal rows, unlike the matrix product's."""
    squared = (rows - centroids).square_().sum(1)
    return torch.where(rows.any(1), squared / 2, 0) if frame.cosine else squared


def _farthest_distinct(distance: Tensor, m: int, rows: Rows, frame: Frame, ranks: Ranks) -> Tensor:
    """Global numbers of up to m rows, no two equal, none at distance zero, farthest first; some if any exist."""
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
    place = torch.arange(len(index), device=index.device)
    first = torch.full_like(place, len(index)).scatter_reduce_(0, group, place, "amin")
    return index[first[first < len(index)].sort().values[:m]]
