"""The nearest centroid on CPUs with fast int8 or bfloat16 products: a coarse product gives an upper limit for each
score, and only centroids that the limits cannot rule out are scored in float32.

Legend: B rows of a block, K centroids in G groups of S, D dimensions."""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster_memory._nearest import Columns, Nearest

# A group has at most 16 centroids and one upper limit. The number of groups is a multiple of 64, which torch reduces in
# whole vectors.
_MEMBERS, _GROUPS = 16, 64
# Size of the scores of one coarse product. They should stay in a core's cache until they are reduced.
_TILE_BYTES = 3 * 2**19
# If rows have more than this share of the groups left, the float32 product with all centroids is faster.
_TOO_MANY = 1 / 8
# Bound on the rounding of float32 scores, relative to |x||c|. It is far above the errors that occur and far below those
# of int8.
SLACK = 1e-5


def coarse_dtype() -> torch.dtype | None:
    """The type that this CPU multiplies several times faster than float32: bfloat16 (AMX), int8 (VNNI), or None."""
    for name, dtype in (("_is_amx_tile_supported", torch.bfloat16), ("_is_vnni_supported", torch.int8)):
        if getattr(torch.cpu, name, bool)():
            return dtype
    return None


def is_worth_it(k: int, dim: int) -> bool:
    """Whether the coarse product saves more than its bookkeeping costs, and int32 holds the sums of int8 products."""
    return k >= 256 and 32 <= dim < 2**17


@dataclass(frozen=True)
class CoarseRows:
    """Rows (B, D) rounded to values * scale, and the norms of the rounding errors. Depends on no centroid, so it can be
    kept between updates."""

    values: Tensor  # (B, D) int8 or bfloat16
    scale: Tensor  # (B, 1) float32
    norms: Tensor  # (B,) float32, of the rows themselves
    lost: Tensor  # (B,) float32, norm of rows - values * scale

    @property
    def squares(self) -> Tensor:
        """Squared norms (B,) of the rows."""
        return self.norms.square()

    @classmethod
    def of(cls, rows: Tensor, dtype: torch.dtype) -> "CoarseRows":
        """Rounds rows (B, D) float32 to int8, with one scale for each row, or to bfloat16."""
        if dtype == torch.int8:
            scale = rows.abs().amax(1, keepdim=True).clamp_min_(1e-30) / 127
            rounded = (rows / scale).round_()
        else:
            scale = rows.new_ones(len(rows), 1)
            rounded = rows.to(dtype).float()
        values = rounded.to(dtype)
        lost = torch.linalg.vector_norm(rounded.mul_(scale).sub_(rows), dim=1)
        return cls(values, scale, torch.linalg.vector_norm(rows, dim=1), lost)


class CoarseNearest:
    """Finds the same centroid as `Nearest`, with a coarse product on a CPU.

    The score of centroid k is s_k = x.c_k - |c_k|^2 / 2 (x.c_k for cosine); the nearest centroid has the highest. Write
    x = x' + e and c = c' + f, where x' and c' are coarse (bfloat16, or int8 with one scale for each row and each group
    of centroids). By Cauchy-Schwarz, x.c <= x'.c' + |e| |c| + |x'| |f|. The norms |e| and |f| are measured, so this is
    an upper limit for the scores of a group.

    The group with the highest limit is scored in float32. A group whose limit is below that score cannot hold the
    nearest centroid; all other groups are scored in float32 too. Centroids are grouped by norm, which keeps the limits
    of a group tight.

    n_seen counts rows, n_rechecked those for which more than one group was scored."""

    def __init__(self, centroids: Tensor, cosine: bool, dtype: torch.dtype) -> None:
        k, dim = centroids.shape
        self.centroids = centroids
        self.exact, self.cosine, self.dtype = Nearest(centroids, cosine), cosine, dtype
        self.n_seen = self.n_rechecked = 0
        self._counting = threading.Lock()
        n_groups = -(-k // (_MEMBERS * _GROUPS)) * _GROUPS
        n_members = -(-k // n_groups)
        norms = torch.linalg.vector_norm(centroids, dim=1)
        order = norms.argsort()
        # K need not fill the groups: the last centroid is repeated
        order = torch.cat([order, order[-1:].expand(n_groups * n_members - k)])
        # (G, S) ascending in each group, so that the first maximum is that of the lowest index
        self._members = order.view(n_groups, n_members).sort(1).values
        grouped, bias = centroids[self._members], -0.5 * self.exact.bias[self._members]  # (G, S, D), (G, S)
        self._columns, self._biases = grouped.transpose(1, 2).contiguous().unbind(0), bias.unbind(0)
        coarse = CoarseRows.of(grouped.view(n_groups, -1), dtype)  # one scale a group
        values = coarse.values.view_as(grouped)
        lost = torch.linalg.vector_norm(grouped - values.float() * coarse.scale[:, :, None], dim=2).amax(1)
        self._scale = coarse.scale[:, 0]
        # Column s G + g of the product belongs to member s of group g, so that maxima over s are maxima of whole
        # vectors. Allocated and then filled, to get plain strides also for D = 1.
        self._coarse = values.new_empty(dim, n_members * n_groups)
        self._coarse.view(dim, n_members, n_groups).copy_(values.permute(2, 1, 0))
        self._limits = torch.stack([norms[self._members].amax(1), lost, bias.amax(1)])  # (3, G)

    def facts(self, rows: Tensor) -> CoarseRows:
        """The coarse form of rows (B, D), which a caller may keep between updates."""
        return CoarseRows.of(rows, self.dtype)

    def __call__(self, rows: Tensor, coarse: CoarseRows | None = None) -> tuple[Tensor, Tensor]:
        """Distances (B,) float32 >= 0 and indices (B,) int64 of the nearest centroids of rows (B, D).

        coarse: `self.facts(rows)`, if the caller kept it."""
        coarse = coarse or self.facts(rows)
        limits = self._upper_limits(coarse)
        likely = limits.max(1).indices
        order = likely.argsort()
        top, index = rows.new_empty(len(rows)), torch.empty_like(order)
        top[order], index[order] = self._in_groups(rows, order, likely[order])
        limits.scatter_(1, likely[:, None], -torch.inf)
        unsure = (limits.amax(1) >= top).nonzero().flatten()
        self._count(len(rows), len(unsure))
        group, which_row = (limits[unsure] >= top[unsure, None]).T.nonzero().unbind(1)
        if len(which_row) > _TOO_MANY * len(unsure) * len(self._columns):
            least, index[unsure] = self.exact.best(Columns.of(rows[unsure]))
            top[unsure] = -least if self.cosine else -least / 2
        elif len(which_row):
            row = unsure[which_row]
            best, which = self._in_groups(rows, row, group)
            before = top.clone()
            top.scatter_reduce_(0, row, best, "amax")
            index.masked_fill_(before < top, self._members.numel())
            at_top = best == top[row]
            index.scatter_reduce_(0, row[at_top], which[at_top], "amin")  # ties go to the lower index
        return self.exact.distance(coarse.squares, -top if self.cosine else -2 * top), index

    def _count(self, n_seen: int, n_rechecked: int) -> None:
        with self._counting:
            self.n_seen += n_seen
            self.n_rechecked += n_rechecked

    def _in_groups(self, rows: Tensor, row: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Highest float32 score (P,) and its first centroid (P,) for P pairs of a row and a group, sorted by group."""
        scores = rows.new_empty(len(row), self._members.shape[1])
        sizes = torch.bincount(group, minlength=len(self._columns)).tolist()
        parts = zip(
            self._biases, rows.index_select(0, row).split(sizes), self._columns, scores.split(sizes), strict=True
        )
        for bias, some, columns, out in parts:
            torch.addmm(bias, some, columns, out=out)
        best, which = scores.max(1)
        return best, self._members[group, which]

    def _upper_limits(self, coarse: CoarseRows) -> Tensor:
        """Upper limits (B, G) float32 of the scores of each group."""
        n, (width, n_groups) = len(coarse.values), (self._coarse.shape[1], len(self._columns))
        dtype, product = (torch.int32, torch._int_mm) if self.dtype == torch.int8 else (self.dtype, torch.mm)
        largest = torch.empty(n, n_groups, dtype=dtype)
        tile = max(64, _TILE_BYTES // (width * dtype.itemsize))
        scores = torch.empty(tile, width, dtype=dtype)
        for values, out in zip(coarse.values.split(tile), largest.split(tile), strict=True):
            part = scores if len(out) == tile else scores[: len(out)]
            product(values, self._coarse, out=part)
            torch.amax(part.view(len(out), -1, n_groups), 1, out=out)
        limits = largest.float()
        if self.dtype == torch.int8:
            limits.mul_(self._scale).mul_(coarse.scale)
        else:
            limits += limits.abs() * 2**-7.9  # the product itself is rounded to bfloat16, by at most 2^-8
        norms, lost = coarse.norms, coarse.lost
        return limits.addmm_(torch.stack([lost + SLACK * norms, norms + lost, torch.ones_like(norms)], 1), self._limits)
