"""The memories of Online Deep Clustering (Zhan et al. 2020, arXiv:2006.10645): samples and centroids."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster_memory import _device
from cluster_memory._errors import NotFinite
from cluster_memory._nearest import first_argmin
from cluster_memory._ranks import Ranks, last_occurrences
from cluster_memory._samples import Samples, check_bank_dtype
from cluster_memory._sources import Array, as_tensor
from cluster_memory._sums import add_rows
from cluster_memory._two_means import cut_in_two

_BLOCK_BYTES = 16 * 2**20  # scratch memory for the scores (rows x K) or features of one block


class OnlineClusters(Samples):
    """ODC's samples memory and centroids memory, without empty or tiny clusters.

    Holds a unit row and a cluster for each of N samples, and K centroids. A training step calls `update`, every tenth
    time `update_centroids`, then `split_small_clusters` and `loss_weights`. The cost of a step depends on the batch B,
    on D and K and on the sizes of the clusters that are repaired, never on N.

    Zhan et al. 2020, arXiv:2006.10645. The README gives the memory, the traffic between ranks, the precision of the
    sums and when the host waits for a GPU.

    The whole state is in the `state_dict`: `bank`, `assignments`, `centroids`, `sums`, `counts` and `step`. Loading it
    resumes bit for bit. A checkpoint with another `bank_dtype` is converted.

    Args:
        n_samples: Number of samples N, at least k.
        dim: Length D of a row.
        k: Number of clusters K.
        momentum: Share of the new feature in an updated row, in [0, 1].
        min_cluster: Clusters with fewer members are dissolved. If N < 2 K min_cluster, the threshold is lowered to
            max(1, N // 2K), so that most clusters can reach it; see `effective_min_cluster`.
        seed: Seed of all random draws.
        bank_dtype: torch.float32, or torch.float16 for half the bytes. Computation is in float32 either way. A float16
            row is rounded before it is assigned and summed, so clusters and sums are those of the rows in the bank.
        sharded: Divides rows and assignments among the ranks of `group`: each rank holds the samples in `owned`. Every
            method except `update_centroids` and `loss_weights` is then a collective call, and so is `state_dict`.
        group: Process group whose batches are put together. Without `sharded`, each rank holds the whole memory and
            does the same work, so any rank can write the checkpoint. None means this process alone.

    Attributes:
        bank: (N, D) buffer of `bank_dtype`, unit rows; if sharded, (len(owned), D).
        assignments: (N,) int64 buffer of clusters, -100 before `initialise`; if sharded, (len(owned),).
        centroids: (K, D) float32 buffer, means of the members as of the last `update_centroids` or split; not unit.
        sums: (K, D) float64 buffer, sums of the members.
        counts: (K,) int64 buffer, numbers of members.
        step: () int64 buffer, number of updates.
        owned: Range of the samples that this rank holds.
        effective_min_cluster: The threshold in use.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        ```python
        memory = OnlineClusters(n_samples=len(features), dim=256, k=1000)
        memory.initialise(features, kmeans.assignments_)
        change_ratio = memory.update(indices, batch_features)
        memory.split_small_clusters()
        loss = cross_entropy(logits, memory.assignments[indices], memory.loss_weights())
        ```
    """

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
        *,
        seed: int = 0,
        bank_dtype: torch.dtype = torch.float32,
        sharded: bool = False,
        group: dist.ProcessGroup | None = None,
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
        self.momentum, self.min_cluster, self.seed = momentum, min_cluster, seed
        # With this bound not all clusters can be small at once, so samples of dissolved clusters always find another.
        self.effective_min_cluster = min(min_cluster, max(1, n_samples // (2 * k)))
        self.register_buffer("centroids", torch.zeros(k, dim))
        self.register_buffer("sums", torch.zeros(k, dim, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(k, dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._ready = False
        # Whether the last batch was valid (() bool), its indices and its features. None once it has been checked. On a
        # GPU the check is left to the next call that waits for the device anyway.
        self._unchecked: tuple[Tensor, Tensor, Tensor] | None = None

    def extra_repr(self) -> str:
        """The arguments, for torch's repr."""
        return (
            f"n_samples={self.n_samples}, dim={self.bank.shape[1]}, k={len(self.counts)}, momentum={self.momentum}, "
            f"min_cluster={self.min_cluster}, seed={self.seed}, bank_dtype={self.bank.dtype}, "
            f"sharded={self._sharded}, ranks={self._ranks.size}"
        )

    @torch.no_grad()
    def initialise(self, features: Array, assignments: Array) -> None:
        """Fills the memories from features and a first clustering.

        Rows are scaled to unit length; centroids are the means of their members. Empty clusters are filled at once by
        splitting the largest ones.

        Args:
            features: (N, D) floats, a tensor or NumPy array. With a group every rank passes the same rows; if sharded,
                the rows (len(owned), D) that it owns.
            assignments: (N,) integers in [0, K), tensor or array; if sharded, (len(owned),).

        Raises:
            ValueError: If a shape is wrong or an assignment is out of range.
            NotFinite: If features hold NaN or infinity.
        """
        features, assignments = as_tensor(features), as_tensor(assignments)
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
    def update(self, indices: Array, features: Array) -> Tensor:
        """Blends features into the rows of a batch of samples, and moves each sample to its nearest centroid.

        row <- unit((1 - momentum) row + momentum unit(feature)), then cluster <- argmax_k centroid_k . row. Centroids
        are means that are not scaled to unit length, so a tight cluster has an advantage. An all-zero row goes to
        cluster 0. If an index occurs more than once, each occurrence is computed from the same old row and the last
        one is kept.

        With a group this is a collective call: batches are put together in rank order and may differ in length.

        On a GPU with group=None the host does not wait. An invalid batch then changes nothing but `step`, its change
        ratio is NaN, and the error is raised by the next call of `split_small_clusters`, `update` or `state_dict`. On a
        CPU, and for indices on the CPU, it is raised at once.

        Args:
            indices: (B,) integers in [0, N), tensor or NumPy array on any device.
            features: (B, D) floats, tensor or NumPy array on any device.

        Returns:
            () float32 tensor on the device of the memory: share of the batch, over all ranks, that changed cluster.

        Raises:
            RuntimeError: If the memory is empty.
            ValueError: If a shape is wrong or an index is out of range.
            NotFinite: If features hold NaN or infinity.
        """
        indices, features = as_tensor(indices), as_tensor(features)
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
        if masked:  # looking at `fine` would make the host wait; instead, if it is False, what follows changes nothing
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

        # Every occurrence of an index gets the row of its last occurrence, and only that one is counted. Dropping the
        # others would give tensors whose shape depends on data, and make the host wait.
        last = last_occurrences(indices)
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
        """Sets centroids to the means of their members, not scaled to unit length. Empty clusters keep theirs."""
        means = (self.sums / self.counts.clamp_min(1)[:, None]).float()
        self.centroids.copy_(torch.where((self.counts > 0)[:, None], means, self.centroids))

    @torch.no_grad()
    def split_small_clusters(self) -> int:
        """Dissolves clusters below `effective_min_cluster`, and refills each with half of the largest cluster.

        Members of small clusters move to the nearest centroid of the other clusters. Then each emptied cluster, in
        ascending order, takes one side of a 2-means of the largest cluster (the first one on ties). The centroids of
        both become the means of their members.

        A collective call if sharded. The host waits for a GPU once, and more often if clusters are split.

        Returns:
            Number of clusters that were dissolved.

        Raises:
            ValueError: If the last batch on a GPU had indices out of range.
            NotFinite: If the last batch on a GPU held NaN or infinity.
        """
        is_small = self.counts < self.effective_min_cluster
        if not self._check_last_batch(is_small.sum()):  # the only wait for the device in a step without splits
            return 0
        small = is_small.nonzero().flatten()
        self._settle()
        samples, old, rows = self._members_of(small)
        new = self._nearest(rows, is_small)
        add_rows(self.sums, new, rows.double())
        self._count(old, new, torch.ones_like(new))
        self._relabel(samples, old, new)
        self._split_into(small)  # this also recomputes their sums
        return len(small)

    def loss_weights(self, power: float = 0.5) -> Tensor:
        """Class weights for the cross-entropy, proportional to (1 / (n + 1e-10))^power for a cluster of n samples.

        Args:
            power: 0 gives equal weights; ODC uses 0.5.

        Returns:
            (K,) float32 tensor on the device of the memory; the weights sum to 1.
        """
        weights = (self.counts.double() + 1e-10) ** -power
        return (weights / weights.sum()).float()

    def _check_last_batch(self, asked: Tensor | None = None) -> int:
        """Raises if the last batch was invalid and has not been checked yet. Returns the integer `asked` (), read from
        the device in the same wait; 0 if it is None."""
        if self._unchecked is None:
            return 0 if asked is None else int(asked)
        (fine, indices, features), self._unchecked = self._unchecked, None
        is_fine, value = (fine, 0) if asked is None else torch.stack([fine.to(asked.dtype), asked]).tolist()
        if not is_fine:
            self._check_range(indices)
            raise _not_finite(features, indices)
        return int(value)

    def _check_range(self, indices: Tensor) -> None:
        """Raises ValueError if an index is out of range."""
        if len(indices) and not 0 <= int(indices.amin()) <= int(indices.amax()) < self.n_samples:
            raise ValueError(
                f"indices must be in [0, {self.n_samples}), got {int(indices.amin())} to {int(indices.amax())}: "
                "pass positions in the data set"
            )

    def _nearest(self, rows: Tensor, excluded: Tensor | None = None) -> Tensor:
        """argmax_k centroid_k . row for unit rows (B, D), without the centroids of excluded (K,) bool: (B,) int64. Ties
        go to the lower index."""
        found = [torch.empty(0, dtype=torch.int64, device=rows.device)]
        for block in rows.split(_block_rows(len(self.centroids))):
            scores = -block @ self.centroids.T
            if excluded is not None:
                scores[:, excluded] = torch.inf
            found.append(first_argmin(scores)[1])
        return torch.cat(found)

    def _count(self, old: Tensor, new: Tensor, times: Tensor) -> None:
        """Moves `times` (B,) members from clusters `old` (B,) to `new` (B,) in the counts."""
        self.counts.index_add_(0, old, -times).index_add_(0, new, times)

    def _split_into(self, empty: Tensor) -> None:
        """Fills each empty cluster, in ascending order, with one side of the cluster that is largest at that time."""
        self._settle()
        # Samples of the clusters cut so far. Their member lists are updated later, all at once.
        cut: dict[int, Tensor] = {}
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
        """Computes the sums afresh from all rows."""
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
                self._sum_up()  # loading may have rounded the rows, so the saved sums may not fit them


def _block_rows(width: int) -> int:
    """Rows of a block with `width` float32 numbers for each row."""
    return max(1, _BLOCK_BYTES // (4 * width))


def _unit(rows: Tensor) -> Tensor:
    """Rows scaled to unit length; zero rows stay zero."""
    return rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-10)


def _not_finite(rows: Tensor, indices: Tensor) -> NotFinite:
    """The error that names the first samples whose rows are not finite."""
    bad = indices[(~rows.isfinite().all(1)).nonzero().flatten().to(indices.device)][:5].tolist()
    return NotFinite(f"features of samples {bad} hold NaN or inf, which would stay in the memory: check the loss")
