"""Who is in which cluster, kept up to date batch by batch at a cost that does not depend on the number of samples."""

import torch
from torch import Tensor, nn


class Members(nn.Module):
    """Member lists of K clusters over N samples, in one array of slots.

    Cluster c owns `capacity[c]` slots from `start[c]`, the first `size[c]` of them filled, in any order. Samples leave
    by filling their hole with the cluster's last one, and join at the end. A cluster that outgrows its slots moves to
    the end of the array with twice the room; when the array is full everything is laid out anew, which happens at most
    once in about N joinings. Nothing here is state: the lists follow from the assignments, in whatever order they came
    about, so `members` returns them sorted."""

    slots: Tensor  # (S,) int64 sample indices
    start: Tensor  # (K,) int64
    capacity: Tensor  # (K,) int64
    size: Tensor  # (K,) int64
    position: Tensor  # (N,) int64 slot of each sample
    used: int

    def __init__(self, n_samples: int, k: int) -> None:
        super().__init__()
        for name, length in (("slots", 0), ("start", k), ("capacity", k), ("size", k), ("position", n_samples)):
            self.register_buffer(name, torch.zeros(length, dtype=torch.int64), persistent=False)
        self.used = 0

    def rebuild(self, assignments: Tensor) -> None:
        """Lay out the lists of assignments (N,) in [0, K); the one operation that looks at all samples."""
        order = assignments.argsort(stable=True)
        self._lay_out(order, torch.bincount(assignments, minlength=len(self.size)))

    def members(self, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """(samples, their cluster) of clusters (M,): cluster by cluster in the order given, ascending inside each."""
        sizes = self.size[clusters]
        samples = self.slots[_ranges(self.start[clusters], sizes)]
        which = torch.arange(len(clusters), device=samples.device).repeat_interleave(sizes)
        order = (which * len(self.position) + samples).argsort()
        return samples[order], clusters[which[order]]

    def move(self, samples: Tensor, old: Tensor, new: Tensor) -> None:
        """Move distinct samples (B,) from their clusters `old` (B,) to `new` (B,)."""
        if len(samples):
            self._leave(samples, old)
            self._join(samples, new)

    def _leave(self, samples: Tensor, clusters: Tensor) -> None:
        clusters, order = clusters.sort()
        touched, leaving = torch.unique_consecutive(clusters, return_counts=True)
        left = self.size[touched] - leaving
        self.size[touched] = left
        holes = self.position[samples[order]]
        self.position[samples] = -1
        tail = self.slots[_ranges(self.start[touched] + left, leaving)]
        # per cluster, as many samples survive in the tail as there are holes before it, and both are ordered by cluster
        survivors = tail[self.position[tail] >= 0]
        holes = holes[holes < (self.start[touched] + left).repeat_interleave(leaving)]
        self.slots[holes] = survivors
        self.position[survivors] = holes

    def _join(self, samples: Tensor, clusters: Tensor) -> None:
        clusters, order = clusters.sort()
        samples = samples[order]
        touched, joining = torch.unique_consecutive(clusters, return_counts=True)
        size = self.size[touched]
        self._make_room(touched, size + joining)
        places = _ranges(self.start[touched] + size, joining)
        self.slots[places] = samples
        self.position[samples] = places
        self.size[touched] = size + joining

    def _make_room(self, clusters: Tensor, needed: Tensor) -> None:
        full = needed > self.capacity[clusters]
        room = 2 * needed[full]
        end = self.used + int(room.sum())
        if end > len(self.slots):
            wanted = self.size.clone()
            wanted[clusters] = needed  # of all that grow: a new layout takes spare room away
            self._lay_out(self.slots[_ranges(self.start, self.size)], self.size, wanted)
            return
        clusters = clusters[full]
        size = self.size[clusters]
        samples = self.slots[_ranges(self.start[clusters], size)]
        start = self.used + room.cumsum(0) - room
        places = _ranges(start, size)
        self.slots[places] = samples
        self.position[samples] = places
        self.start[clusters] = start
        self.capacity[clusters] = room
        self.used = end

    def _lay_out(self, samples: Tensor, sizes: Tensor, wanted: Tensor | None = None) -> None:
        """Samples come cluster by cluster; `wanted` (K,) is the least room each cluster must get."""
        room = (sizes if wanted is None else wanted) * 3 // 2 + 8
        self.used = int(room.sum())
        # as much again for clusters that grow: laying out costs N, and takes N joinings to come about
        self.slots = torch.full((2 * self.used + len(self.position),), -1, device=samples.device)
        self.start = room.cumsum(0) - room
        self.capacity = room
        self.size = sizes
        places = _ranges(self.start, sizes)
        self.slots[places] = samples
        self.position[samples] = places


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The numbers start..start+length-1 of every pair, one after the other."""
    before = lengths.cumsum(0) - lengths
    offsets = (starts - before).repeat_interleave(lengths)
    return offsets + torch.arange(len(offsets), device=starts.device)
