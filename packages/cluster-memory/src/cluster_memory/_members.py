"""Member lists of clusters. Updating them for a batch costs the same for any number of samples."""

import torch
from torch import Tensor, nn


class Members(nn.Module):
    """Member lists of K clusters over N samples, in one array of slots.

    Cluster c owns the `capacity[c]` slots from `start[c]`; the first `size[c]` of them are filled, in any order. When a
    sample leaves, the last sample of the cluster takes its slot. When a sample joins, it takes the next free slot. A
    cluster that outgrows its slots moves to the end of the array and gets twice the slots it needs. When the array is
    full, all lists are laid out anew, at most once in about N joins.

    The lists are not saved in checkpoints, since they follow from the assignments. Their order depends on the history,
    so `members` returns them sorted."""

    slots: Tensor  # (S,) int64 sample indices
    start: Tensor  # (K,) int64
    capacity: Tensor  # (K,) int64
    size: Tensor  # (K,) int64
    position: Tensor  # (N,) int64 slot of each sample
    used: int  # slots that belong to a cluster, now or before it moved

    def __init__(self, n_samples: int, k: int) -> None:
        super().__init__()
        for name, length in (("slots", 0), ("start", k), ("capacity", k), ("size", k), ("position", n_samples)):
            self.register_buffer(name, torch.zeros(length, dtype=torch.int64), persistent=False)
        self.used = 0

    def rebuild(self, assignments: Tensor) -> None:
        """Lays out the lists of assignments (N,) in [0, K). Only this and a new layout cost O(N)."""
        order = assignments.argsort(stable=True)
        self._lay_out(order, torch.bincount(assignments, minlength=len(self.size)))

    def members(self, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of clusters (M,) and the cluster of each sample: one cluster after the other in the order given,
        samples ascending within each."""
        sizes = self.size[clusters]
        samples = self.slots[_ranges(self.start[clusters], sizes)]
        which = torch.arange(len(clusters), device=samples.device).repeat_interleave(sizes)
        order = (which * len(self.position) + samples).argsort()
        return samples[order], clusters[which[order]]

    def move(self, samples: Tensor, old: Tensor, new: Tensor) -> None:
        """Moves distinct samples (B,) from their clusters `old` (B,) to `new` (B,)."""
        if len(samples):
            self._leave(samples, old)
            self._join(samples, new)

    def _leave(self, samples: Tensor, clusters: Tensor) -> None:
        """Removes distinct samples (B,) from their clusters (B,)."""
        clusters, order = clusters.sort()
        touched, leaving = torch.unique_consecutive(clusters, return_counts=True)
        left = self.size[touched] - leaving
        self.size[touched] = left
        holes = self.position[samples[order]]
        self.position[samples] = -1
        tail = self.slots[_ranges(self.start[touched] + left, leaving)]
        # In each cluster, the samples that stay and lie beyond its new end are as many as the holes before that end.
        # Both lists are ordered by cluster, so they match one to one.
        survivors = tail[self.position[tail] >= 0]
        holes = holes[holes < (self.start[touched] + left).repeat_interleave(leaving)]
        self.slots[holes] = survivors
        self.position[survivors] = holes

    def _join(self, samples: Tensor, clusters: Tensor) -> None:
        """Adds distinct samples (B,) to clusters (B,)."""
        clusters, order = clusters.sort()
        samples = samples[order]
        touched, joining = torch.unique_consecutive(clusters, return_counts=True)
        size = self.size[touched]
        self._make_room(touched, size + joining)
        free = _ranges(self.start[touched] + size, joining)
        self.slots[free] = samples
        self.position[samples] = free
        self.size[touched] = size + joining

    def _make_room(self, clusters: Tensor, needed: Tensor) -> None:
        """Gives clusters (M,) at least `needed` (M,) slots each."""
        full = needed > self.capacity[clusters]
        room = 2 * needed[full]
        end = self.used + int(room.sum())
        if end > len(self.slots):
            wanted = self.size.clone()
            wanted[clusters] = needed  # for all that grow: a new layout also resizes those that have room now
            self._lay_out(self.slots[_ranges(self.start, self.size)], self.size, wanted)
            return
        clusters = clusters[full]
        size = self.size[clusters]
        samples = self.slots[_ranges(self.start[clusters], size)]
        start = self.used + room.cumsum(0) - room
        moved_to = _ranges(start, size)
        self.slots[moved_to] = samples
        self.position[samples] = moved_to
        self.start[clusters] = start
        self.capacity[clusters] = room
        self.used = end

    def _lay_out(self, samples: Tensor, sizes: Tensor, wanted: Tensor | None = None) -> None:
        """Lays out samples (N,), given cluster by cluster, with sizes (K,). wanted (K,): minimum slots for each."""
        room = (sizes if wanted is None else wanted) * 3 // 2 + 8
        self.used = int(room.sum())
        # The other half is for clusters that grow. A layout costs O(N), and about N joins fill that half.
        self.slots = torch.full((2 * self.used + len(self.position),), -1, device=samples.device)
        self.start = room.cumsum(0) - room
        self.capacity = room
        self.size = sizes
        filled = _ranges(self.start, sizes)
        self.slots[filled] = samples
        self.position[samples] = filled


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The integers start, ..., start + length - 1 of each pair, concatenated."""
    before = lengths.cumsum(0) - lengths
    offsets = (starts - before).repeat_interleave(lengths)
    return offsets + torch.arange(len(offsets), device=starts.device)
