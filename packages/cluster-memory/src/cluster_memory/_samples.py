"""The samples' side of ODC's memories: a row and a cluster for each sample, on every rank or spread over the ranks."""

from collections.abc import MutableMapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster_memory import _device
from cluster_memory._members import Members
from cluster_memory._ranks import Ranks, last_of_each

# Relabellings between two updates of the member lists; on a GPU, where an update makes the host wait, as many more as
# move a quarter of the samples: about once in a quarter of an epoch, for at most 4 bytes a sample.
_PENDING = 64


def check_bank_dtype(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"bank_dtype must be torch.float32 or torch.float16, got {dtype}")


class Samples(nn.Module):
    """Rows and clusters of N samples. This rank holds those of `owned`: all of them or, sharded, the rank-th
    ceil(N / W) of them.

    What is read is the same on every rank, in the same order and to the last bit, so what is computed from it is too.
    Sharded, reading is therefore a collective; writing never is."""

    bank: Tensor  # (len(owned), D)
    assignments: Tensor  # (len(owned),) int64

    def __init__(self, n_samples: int, dim: int, k: int, dtype: torch.dtype, ranks: Ranks, sharded: bool) -> None:
        super().__init__()
        self.n_samples, self._ranks, self._sharded = n_samples, ranks, sharded and ranks.size > 1
        self.owned = self._share(ranks.rank) if self._sharded else range(n_samples)
        self.register_buffer("bank", torch.zeros(len(self.owned), dim, dtype=dtype))
        self.register_buffer("assignments", torch.full((len(self.owned),), -100))
        self._members = Members(len(self.owned), k)
        # (places, cluster in whose list each still is), oldest first: brought into the lists by `_settle`
        self._moves: list[tuple[Tensor, Tensor]] = []
        self._n_moves = 0  # samples in them

    @torch.no_grad()
    def assignments_of(self, indices: Tensor) -> Tensor:
        """Clusters (B,) int64 of samples `indices` (B,), wherever they are held.

        Sharded this is a collective: each rank asks for its own, as many as it likes."""
        indices = _device.sent(indices, self.assignments.device)
        if not self._sharded:
            return self.assignments[indices]
        lengths = self._ranks.stack(torch.full((), len(indices), device=indices.device)).tolist()
        found = self._look_up(self.assignments, self._ranks.concatenate(indices))
        return found.split(lengths)[self._ranks.rank]

    def _rows(self, samples: Tensor) -> Tensor:
        """Rows (B, D) float32 of samples (B,), the same list on every rank."""
        return self._look_up(self.bank, samples).float()

    def _look_up(self, buffer: Tensor, samples: Tensor) -> Tensor:
        if not self._sharded:
            return buffer[samples]
        here, places = self._places(samples)
        found = buffer.new_zeros(len(samples), *buffer.shape[1:])
        found[here] = buffer[places]
        return self._ranks.sum(found)  # one rank's row and zeros: exact in any dtype

    def _members_of(self, clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(samples, their cluster, rows (M, D) float32) of ascending `clusters`, as of the last `_settle`; samples
        ascend inside each."""
        places, which = self._members.members(clusters)
        samples, rows = places + self.owned.start, self.bank[places]
        if self._sharded:
            pairs, rows = self._ranks.concatenate(torch.stack([samples, which], 1)), self._ranks.concatenate(rows)
            order = (pairs[:, 1] * self.n_samples + pairs[:, 0]).argsort()
            (samples, which), rows = pairs[order].unbind(1), rows[order]
        return samples, which, rows.float()

    def _write(self, samples: Tensor, rows: Tensor) -> None:
        """Equal rows where a sample occurs more than once."""
        here, places = self._places(samples)
        self.bank[places] = rows[here].to(self.bank.dtype)

    def _relabel(self, samples: Tensor, old: Tensor, new: Tensor) -> None:
        """Equal clusters where a sample occurs more than once."""
        here, places = self._places(samples)
        self.assignments[places] = new[here]
        self._moves.append((places.clone(), old[here]))  # the caller may use his tensor again
        self._n_moves += len(places)
        if len(self._moves) >= _PENDING and (not _device.on_gpu(places.device) or 4 * self._n_moves >= len(self.owned)):
            self._settle()

    def _places(self, samples: Tensor) -> tuple[Tensor | slice, Tensor]:
        """Which of samples are held here, and their places in the buffers."""
        if not self._sharded:
            return slice(None), samples
        here = ((samples >= self.owned.start) & (samples < self.owned.stop)).nonzero().flatten()
        return here, samples[here] - self.owned.start

    def _settle(self) -> None:
        """Bring the member lists up to date with the assignments."""
        if not self._moves:
            return
        device = self.assignments.device  # the module may have been moved since
        places, old = (torch.cat([t.to(device) for t in parts]) for parts in zip(*reversed(self._moves), strict=True))
        self._forget_moves()
        first = last_of_each(places)  # newest moves come first here: the last one says in whose list a sample still is
        places, old = places[first], old[first]
        new = self.assignments[places]
        changed = (old != new).nonzero().flatten()
        self._members.move(places[changed], old[changed], new[changed])

    def _forget_moves(self) -> None:
        self._moves.clear()
        self._n_moves = 0

    def _rebuild_members(self) -> None:
        self._forget_moves()
        self._members.rebuild(self.assignments)

    def _share(self, rank: int) -> range:
        each = -(-self.n_samples // self._ranks.size)
        return range(self.n_samples)[rank * each : (rank + 1) * each]

    def _save_to_state_dict(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._sharded:
            destination[prefix + "bank"] = self._collected(self.bank)
            destination[prefix + "assignments"] = self._collected(self.assignments)

    def _collected(self, buffer: Tensor) -> Tensor:
        """All ranks' rows in the main memory of the group's rank 0, one rank after the other; no rows elsewhere."""
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
