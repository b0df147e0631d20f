"""Online Deep Clustering's two memories (Zhan et al. 2020, arXiv:2006.10645): samples and centroids, step by step."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster_memory import _device
from cluster_memory._errors import NotFinite
from cluster_memory._nearest import first_argmin
from cluster_memory._ranks import Ranks, last_places
from cluster_memory._samples import Samples, check_bank_dtype
from cluster_memory._sums import add_rows
from cluster_memory._two_means import cut_in_two

_BLOCK_BYTES = 16 * 2**20  # of scores (rows x K) or features at once


class OnlineClusters(Samples):
    """ODC's memories: a feature and a cluster for each of N samples, and the K clusters, without empty or tiny ones.

    A step is `update`, every tenth time `update_centroids`, then `split_small_clusters` and `loss_weights`. Its cost
    depends on the batch B, on D and K and on the sizes of the clusters it repairs, never on N.

    n_samples: N >= k. momentum in [0, 1]: share of the new feature in the memory. min_cluster: clusters below it are
    dissolved; where N < 2 K min_cluster it is lowered to max(1, N // 2K), so that most clusters can reach it.
    seed: the only source of randomness. bank_dtype: float32, or float16 for half the bytes. What is computed is float32
    all the same; a float16 row is rounded before it is assigned and summed, so that clusters and sums are those of the
    rows in the bank, which are unit up to 2^-11.

    group: ranks whose batches are put together; each holds the whole memory and does the same work, so any of them can
    write the checkpoint and any number of ranks can go on from it. With sharded=True each rank holds `bank` and
    `assignments` of the samples in `owned` only, the rank-th ceil(N / W) of them; from equal states results are equal
    to the bit (`initialise` adds its sums in another order). Then `initialise` takes, on every rank, what that rank
    owns; `assignments_of` looks clusters up; every method is a collective but `update_centroids` and `loss_weights`.
    Traffic beside the batch: `update` all-reduces its B rows and clusters, and each split collects the rows of one
    cluster. `state_dict` is a collective too, and global: rank 0 of the group gets all rows in main memory, the others
    none; every rank loads rank 0's, whatever their number.

    Buffers are the whole state: `bank` (N, D) unit rows, `assignments` (N,) int64 (-100 before `initialise`),
    `centroids` (K, D) float32, `sums` (K, D) float64, `counts` (K,) int64, `step` int64. They take
    4 N D + 8 N + 12 K D bytes (2 N D in float16), and the member lists, which are rebuilt on loading, 40 N at most; all
    that has an N is divided by W when sharded. A checkpoint of another bank dtype is converted.
    Drift: after U updates a sum is off by at most 2 U 2^-53 max|sum| (10^9 updates of clusters of 1000: 2e-4 of one
    row); rows have 24 bits, so in practice most additions are exact. A split computes its two sums afresh.

    On a GPU, with group=None, the host waits once in a step that splits nothing: `split_small_clusters` asks whether a
    cluster is small and, in the same copy, whether the last batch was fine. `update` itself does not wait: a batch with
    indices out of range or features that are not finite changes nothing there but `step`, its change ratio is NaN, and
    the next split_small_clusters, update or state_dict raises (on a CPU, and for indices on the CPU, update raises at
    once). After updates of a quarter of the samples the member lists are brought up to date, which takes some ten
    waits. With a group the host also waits for the lengths of the batches."""

    centroids: Tensor
    sums: Tensor
    counts: Tensor
    step: Tensor

    def __init__(
        self,
        n_samples: int,
        dim: int,
        k: int,
        momentum: float = 0.5,
        min_cluster: int = 20,
        group: dist.ProcessGroup | None = None,
        seed: int = 0,
        *,
        bank_dtype: torch.dtype = torch.float32,
        sharded: bool = False,
    ) -> None:
        if min(n_samples, dim, k, min_cluster) < 1 or not 0 <= momentum <= 1:
            raise ValueError(
                "expected n_samples, dim, k, min_cluster >= 1 and momentum in [0, 1], "
                f"got {n_samples}, {dim}, {k}, {min_cluster}, {momentum}"
            )
        if n_samples < k:
            raise ValueError(f"k = {k} clusters need as many samples, got {n_samples}: use k <= {n_samples}")
        check_bank_dtype(bank_dtype)
        super().__init__(n_samples, dim, k, bank_dtype, Ranks(group), sharded)
        self.momentum, self.seed = momentum, seed
        # with this bound not all clusters can be small at once, so redirected samples always have somewhere to go
        self.effective_min_cluster = min(min_cluster, max(1, n_samples // (2 * k)))
        self.register_buffer("centroids", torch.zeros(k, dim))
        self.register_buffer("sums", torch.zeros(k, dim, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(k, dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._ready = False
        # whether the last batch was fine, its indices and its features, until someone waits for the device anyway
        self._unchecked: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def initialise(self, features: Tensor, assignments: Tensor) -> None:
        """Fill the memories from features (N, D) of any float dtype and a first clustering (N,) int64 in [0, K).

        Rows are made unit; centroids are the means of their members, not unit. Empty clusters are filled at once by
        splitting the largest ones. With a group every rank passes the same N rows or, sharded, those it owns."""
        n, k = len(self.bank), len(self.counts)
        if features.shape != self.bank.shape or assignments.shape != (n,):
            raise ValueError(
                f"expected features {tuple(self.bank.shape)} and assignments ({n},), "
                f"got {tuple(features.shape)} and {tuple(assignments.shape)}"
            )
        if ((assignments < 0) | (assignments >= k)).any():
            raise ValueError(
                f"assignments must be in [0, {k}), got {int(assignments.min())} to {int(assignments.max())}: "
                "cluster all N samples into k clusters first"
            )
        block = _block_rows(features.shape[1])
        for start in range(0, n, block):
            part = slice(start, start + block)
            rows = _unit(features[part].to(self.bank.device).float())
            if not rows.sum().isfinite():
                raise _not_finite(rows, torch.arange(start, start + len(rows)) + self.owned.start)
            self.bank[part] = rows.to(self.bank.dtype)
        self._unchecked = None
        self.assignments.copy_(assignments)
        self.counts.copy_(torch.bincount(self.assignments, minlength=k))
        if self._sharded:
            self._ranks.sum(self.counts)
        self.step.zero_()
        self._sum_up()
        self._rebuild_members()
        self._ready = True
        self._split_into((self.counts == 0).nonzero().flatten())
        self.update_centroids()

    @torch.no_grad()
    def update(self, indices: Tensor, features: Tensor) -> Tensor:
        """Blend features (B, D) into the memory of samples `indices` (B,), and move each to its nearest centroid.

        row <- unit((1 - m) row + m unit(feature)); cluster <- argmax_k centroid_k . row with centroids that are plain
        means, so that a tight cluster has an advantage and an all-zero row goes to cluster 0. An index may occur more
        than once: each time is computed from the same old row, and the last one counts. With a group, batches are put
        together in rank order and may differ in length. Returns the share of the batch that changed cluster, 0-dim."""
        if not self._ready:
            raise RuntimeError("the memory is empty: call initialise or load_state_dict first")
        if indices.ndim != 1 or features.shape != (len(indices), self.bank.shape[1]):
            raise ValueError(
                f"expected indices (B,) and features (B, {self.bank.shape[1]}), "
                f"got {tuple(indices.shape)} and {tuple(features.shape)}"
            )
        device = self.bank.device
        self._check_last_batch()
        if not _device.on_gpu(indices.device) and self._ranks.group is None:
            self._check_range(indices)
        indices = self._ranks.concatenate(_device.sent(indices, device).long())
        features = self._ranks.concatenate(_unit(_device.sent(features.detach(), device).float()))
        self.step += 1
        if not len(indices):
            return torch.zeros((), device=device)
        fine = (indices.amin() >= 0) & (indices.amax() < self.n_samples) & features.sum().isfinite()
        self._unchecked = fine, indices, features
        masked = _device.on_gpu(device)
        if masked:  # to look at `fine` would be to wait: if it is False, what follows changes nothing
            indices, features = torch.where(fine, indices, 0), torch.where(fine, features, 0)
        else:
            self._check_last_batch()
        old_rows, old = self._rows(indices), self._look_up(self.assignments, indices)
        rows = _unit((1 - self.momentum) * old_rows + self.momentum * features).to(self.bank.dtype).float()
        new = self._nearest(rows)
        change_ratio = (new != old).float().mean()
        if masked:
            rows, new = torch.where(fine, rows, old_rows), torch.where(fine, new, old)
            change_ratio = torch.where(fine, change_ratio, torch.nan)

        # an index that occurs more than once gets its last row each time, and is counted once: no shape depends on data
        last = last_places(indices)
        once = (last == torch.arange(len(last), device=device)).long()
        if masked:
            once *= fine
        rows, new = rows[last], new[last]
        add_rows(self.sums, old, -once[:, None] * old_rows.double())
        add_rows(self.sums, new, once[:, None] * rows.double())
        self._write(indices, rows)
        self._count(old, new, once)
        self._relabel(indices, old, new)
        return change_ratio

    @torch.no_grad()
    def update_centroids(self) -> None:
        """Centroids <- means of their members (not unit); clusters without members keep theirs. Costs K D."""
        means = (self.sums / self.counts.clamp_min(1)[:, None]).float()
        self.centroids.copy_(torch.where((self.counts > 0)[:, None], means, self.centroids))

    @torch.no_grad()
    def split_small_clusters(self) -> int:
        """Dissolve clusters below `effective_min_cluster`, refill each by half of the largest; returns how many.

        Members of small clusters go to the nearest centroid among the others, whose centroids stay as they are. Then,
        in ascending order, each emptied cluster takes one side of a 2-means of the largest cluster (the first of equal
        ones), and both centroids become the means of their members."""
        is_small = self.counts < self.effective_min_cluster
        if not self._check_last_batch(is_small.sum()):  # the one question to the device in a step
            return 0
        small = is_small.nonzero().flatten()
        self._settle()
        samples, old, rows = self._members_of(small)
        new = self._nearest(rows, is_small)
        add_rows(self.sums, new, rows.double())
        self._count(old, new, torch.ones_like(new))
        self._relabel(samples, old, new)
        self._split_into(small)  # which also sets their sums anew
        return len(small)

    def loss_weights(self, power: float = 0.5) -> Tensor:
        """Class weights (K,) float32 ~ (1 / (n + 1e-10))^power for clusters of n samples; they sum to 1."""
        weights = (self.counts.double() + 1e-10) ** -power
        return (weights / weights.sum()).float()

    def _check_last_batch(self, asked: Tensor | None = None) -> int:
        """Raise if the last batch was wrong and nobody looked yet; returns the integer `asked` (), in the same wait."""
        if self._unchecked is None:
            return 0 if asked is None else int(asked)
        (fine, indices, features), self._unchecked = self._unchecked, None
        is_fine, value = (fine, 0) if asked is None else torch.stack([fine.to(asked.dtype), asked]).tolist()
        if not is_fine:
            self._check_range(indices)
            raise _not_finite(features, indices)
        return int(value)

    def _check_range(self, indices: Tensor) -> None:
        if len(indices) and not 0 <= int(indices.amin()) <= int(indices.amax()) < self.n_samples:
            raise ValueError(
                f"indices must be in [0, {self.n_samples}), got {int(indices.amin())} to {int(indices.amax())}: "
                "pass dataset positions"
            )

    def _nearest(self, rows: Tensor, excluded: Tensor | None = None) -> Tensor:
        """argmax_k centroid_k . row (B,) for unit rows (B, D), ties to the lower index."""
        found = [torch.empty(0, dtype=torch.int64, device=rows.device)]
        for block in rows.split(_block_rows(len(self.centroids))):
            scores = -block @ self.centroids.T
            if excluded is not None:
                scores[:, excluded] = torch.inf
            found.append(first_argmin(scores)[1])
        return torch.cat(found)

    def _count(self, old: Tensor, new: Tensor, times: Tensor) -> None:
        self.counts.index_add_(0, old, -times).index_add_(0, new, times)

    def _split_into(self, empty: Tensor) -> None:
        """Fill each empty cluster (ascending) with one side of the largest cluster of the moment."""
        self._settle()
        cut: dict[int, Tensor] = {}  # samples of the clusters cut so far; their lists follow later, all at once
        step = int(self.step)
        for target in empty.tolist():
            largest = int(self.counts.argmax())
            if largest in cut:
                samples, rows = cut[largest], self._rows(cut[largest])
            else:
                samples, _, rows = self._members_of(torch.full_like(empty[:1], largest))
            side = cut_in_two(rows, self.seed, step, target)
            cut[largest], cut[target] = samples[~side], samples[side]
            moved = cut[target]
            self._relabel(moved, torch.full_like(moved, largest), torch.full_like(moved, target))
            pair = empty.new_tensor([largest, target])
            self.counts[largest], self.counts[target] = len(cut[largest]), len(moved)
            self.sums[pair] = torch.stack(
                [rows[~side].sum(0, dtype=torch.float64), rows[side].sum(0, dtype=torch.float64)]
            )
            self.centroids[pair] = (self.sums[pair] / self.counts[pair, None]).float()

    def _sum_up(self) -> None:
        """Sums from all rows."""
        self.sums.zero_()
        block = _block_rows(self.bank.shape[1])
        for rows, clusters in zip(self.bank.split(block), self.assignments.split(block), strict=True):
            add_rows(self.sums, clusters, rows.double())
        if self._sharded:
            self._ranks.sum(self.sums)

    def _save_to_state_dict(self, *args: Any) -> None:
        self._check_last_batch()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        *_, errors = args
        self._unchecked = None
        self._ready = not errors and int(self.counts.sum()) == self.n_samples
        if self._ready:
            self._rebuild_members()
            given = state_dict.get(prefix + "bank")
            if given is not None and given.dtype != self.bank.dtype:
                self._sum_up()  # of the rows as they are now


def _block_rows(width: int) -> int:
    return max(1, _BLOCK_BYTES // (4 * width))


def _unit(rows: Tensor) -> Tensor:
    return rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-10)


def _not_finite(rows: Tensor, indices: Tensor) -> NotFinite:
    bad = indices[(~rows.isfinite().all(1)).nonzero().flatten().to(indices.device)][:5].tolist()
    return NotFinite(f"features of samples {bad} hold NaN or inf, which would stay in the memory: check the loss")
