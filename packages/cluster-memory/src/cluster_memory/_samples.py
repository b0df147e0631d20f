"""The samples memory of ODC: a row and a cluster for each sample, held whole by every rank or divided among ranks."""

from collections.abc import MutableMapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster_memory import _device
from cluster_memory._members import Members
from cluster_memory._ranks import Ranks, last_of_each
from cluster_memory._sources import Array, as_tensor

# The member lists are updated after this many relabellings. On a GPU, where updating them makes the host wait, they are
# also left until the relabellings cover a quarter of the samples, which takes at most 4 bytes a sample.
_PENDING = 64


def check_bank_dtype(dtype: torch.dtype) -> None:
    """Raises ValueError unless a bank can have this type."""
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"bank_dtype must be torch.float32 or torch.float16, got {dtype}")


class Samples(nn.Module):
    """Rows and clusters of N samples.

    This rank holds the samples of the range `owned`: all samples or, if sharded over W ranks, the rank-th ceil(N / W)
    of them. Every rank reads the same rows in the same order, so every rank computes the same bits from them. Reading
    sharded samples is therefore a collective call; writing never is."""

    bank: Tensor  # (len(owned), D)
    assignments: Tensor  # (len(owned),) int64

    def __init__(self, n_samples: int, dim: int, k: int, dtype: torch.dtype, ranks: Ranks, sharded: bool) -> None:
        super().__init__()
        self.n_samples, self._ranks, self._sharded = n_samples, ranks, sharded and ranks.size > 1
        self.owned = self._share(ranks.rank) if self._sharded else range(n_samples)
        self.register_buffer("bank", torch.zeros(len(self.owned), dim, dtype=dtype))
        self.register_buffer("assignments", torch.full((len(self.owned),), -100))
        self._members = Members(len(self.owned), k)
        # Relabellings that the member lists do not show yet, oldest first: positions of samples in the buffers, and the
        # cluster of each before the relabelling. `_settle` brings them into the lists.
        self._moves: list[tuple[Tensor, Tensor]] = []
        self._n_moves = 0  # samples in all of `_moves`

    @torch.no_grad()
    def assignments_of(self, indices: Array) -> Tensor:
        """Looks up the clusters of samples, on whichever rank they are held.

        A collective call if the memory is sharded; each rank may ask for other samples and any number of them.

        Args:
            indices: (B,) integers, sample indices in [0, N), as a tensor or NumPy array.

        Returns:
            (B,) int64 tensor on the device of the memory.
        """
        indices = _device.sent(as_tensor(indices), self.assignments.device)
        if not self._sharded:
            return self.assignments[indices]
        lengths = self._ranks.stack(torch.full((), len(indices), device=indices.device)).tolist()
        found = self._look_up(self.assignments, self._ranks.concatenate(indices))
        return found.split(lengths)[self._ranks.rank]

    def _rows(self, samples: Tensor) -> Tensor:
        """Rows (B, D) float32 of samples (B,), which must be the same on every rank."""
        return self._look_up(self.bank, samples).float()

    def _look_up(self, buffer: Tensor, samples: Tensor) -> Tensor:
        """Entries (B, ...) of a buffer for samples (B,), which must be the same on every rank."""
        if not self._sharded:
            return buffer[samples]
        here, local = self._local(samples)
        found = buffer.new_zeros(len(samples), *buffer.shape[1:])
        found[here] = buffer[local]
        return self._ranks.sum(found)  # all ranks but one add zeros, so the sum is exact in any dtype

    def _members_of(self, clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples (M,), their clusters (M,) and their rows (M, D) float32 of ascending `clusters`, as of the last
        `_settle`. Samples ascend within each cluster."""
        local, which = self._members.members(clusters)
        samples, rows = local + self.owned.start, self.bank[local]
        if self._sharded:
            pairs, rows = self._ranks.concatenate(torch.stack([samples, which], 1)), self._ranks.concatenate(rows)
            order = (pairs[:, 1] * self.n_samples + pairs[:, 0]).argsort()
            (samples, which), rows = pairs[order].unbind(1), rows[order]
        return samples, which, rows.float()

    def _write(self, samples: Tensor, rows: Tensor) -> None:
        """Writes rows (B, D) to samples (B,).

        A sample that occurs more than once must get equal rows, since a GPU writes in no fixed order."""
        here, local = self._local(samples)
        self.bank[local] = rows[here].to(self.bank.dtype)

    def _relabel(self, samples: Tensor, old: Tensor, new: Tensor) -> None:
        """Changes the clusters of samples (B,) from `old` (B,) to `new` (B,).

        A sample that occurs more than once must get equal clusters."""
        here, local = self._local(samples)
        self.assignments[local] = new[here]
        self._moves.append((local.clone(), old[here]))  # a clone, because the caller may edit its tensor
        self._n_moves += len(local)
        if len(self._moves) >= _PENDING and (not _device.on_gpu(local.device) or 4 * self._n_moves >= len(self.owned)):
            self._settle()

    def _local(self, samples: Tensor) -> tuple[Tensor | slice, Tensor]:
        """Which of samples (B,) this rank holds, and their positions in its buffers."""
        if not self._sharded:
            return slice(None), samples
        here = ((samples >= self.owned.start) & (samples < self.owned.stop)).nonzero().flatten()
        return here, samples[here] - self.owned.start

    def _settle(self) -> None:
        """Brings the member lists up to date with the assignments."""
        if not self._moves:
            return
        device = self.assignments.device  # the module may have been moved since
        local, old = (torch.cat([t.to(device) for t in parts]) for parts in zip(*reversed(self._moves), strict=True))
        self._forget_moves()
        # A sample is still in the list of the cluster it had before its oldest move. The newest moves come first here,
        # so the last occurrence is the oldest.
        first = last_of_each(local)
        local, old = local[first], old[first]
        new = self.assignments[local]
        changed = (old != new).nonzero().flatten()
        self._members.move(local[changed], old[changed], new[changed])

    def _forget_moves(self) -> None:
        self._moves.clear()
        self._n_moves = 0

    def _rebuild_members(self) -> None:
        self._forget_moves()
        self._members.rebuild(self.assignments)

    def _share(self, rank: int) -> range:
        """Samples that a rank holds if the memory is sharded."""
        each = -(-self.n_samples // self._ranks.size)
        return range(self.n_samples)[rank * each : (rank + 1) * each]

    def _save_to_state_dict(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._sharded:
            destination[prefix + "bank"] = self._collected(self.bank)
            destination[prefix + "assignments"] = self._collected(self.assignments)

    def _collected(self, buffer: Tensor) -> Tensor:
        """Rows of all ranks, in the main memory of the group's rank 0; the other ranks get an empty tensor. Ranks send
        one after the other, so that rank 0 holds only one part beside the whole."""
        group, rank = self._ranks.group, self._ranks.rank
        whole = torch.empty((0 if rank else self.n_samples, *buffer.shape[1:]), dtype=buffer.dtype)
        if rank == 0:
            whole[: len(buffer)] = buffer
        for source in range(1, self._ranks.size):
            share = self._share(source)
            if rank == source and len(share):
                dist.send(buffer, dist.get_global_rank(group, 0), group)  # type: ignore[arg-type]
            elif rank == 0 and len(share):
                part = buffer.new_empty(len(share), *buffer.shape[1:])
                dist.recv(part, dist.get_global_rank(group, source), group)  # type: ignore[arg-type]
                whole[share.start : share.stop] = part
        return whole

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in (prefix + "bank", prefix + "assignments"):
            whole = state_dict.get(name)
            if self._sharded and whole is not None and len(whole) == self.n_samples:
                state_dict[name] = whole[self.owned.start : self.owned.stop]
        super()._load_from_state_dict(state_dict, prefix, *args)
