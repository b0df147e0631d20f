"""First centroids: random rows or k-means++ rows. The draws are the same on every rank."""

import torch
from torch import Tensor

from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows
from cluster_memory._sums import running_sums


def random_rows(rows: Rows, k: int, generator: torch.Generator) -> Tensor:
    """Global row numbers (k,) of k distinct rows."""
    return torch.randperm(rows.n_total, generator=generator)[:k].to(rows.device)


def plus_plus_rows(rows: Rows, frame: Frame, ranks: Ranks, k: int, generator: torch.Generator) -> Tensor:
    """Global row numbers (k,) drawn by exact D^2 sampling (Arthur & Vassilvitskii 2007), one pass over x for each.

    Distances are computed by subtraction, so a copy of a chosen row is at exactly zero and is not drawn while any other
    row is left. Once all rows are at zero, rows are drawn uniformly."""
    draws = torch.rand(k, 2, generator=generator, dtype=torch.float64).tolist()
    chosen = [int(draws[0][0] * rows.n_total)]
    squared = torch.full((rows.n,), torch.inf, device=rows.device)
    for uniform, spare in draws[1:]:
        centre = frame.enter(rows.take(torch.full((1,), chosen[-1], device=rows.device)))
        for part, block in rows:
            distance = (frame.enter(block) - centre).square_().sum(1)
            squared[part] = torch.minimum(squared[part], distance)
        highest = squared.amax() if rows.n else squared.new_zeros(())
        cumulative = running_sums(squared.double(), rows.n_total, ranks.max(highest))
        mine = cumulative[-1] if rows.n else cumulative.new_zeros(())
        totals = ranks.stack(mine)
        before = float(totals[: ranks.rank].sum())
        target = uniform * float(totals.sum())
        if not target > 0 and not float(totals.sum()) > 0:
            chosen.append(int(spare * rows.n_total))
            continue
        # The row to draw is the first one whose running sum passes the target. Rows of later ranks pass it too, so the
        # ranks take the minimum.
        exact = torch.float64 if cumulative.dtype == torch.int64 else torch.float32
        point = torch.full((), target - before, dtype=exact, device=rows.device).to(cumulative.dtype)
        local = int(torch.searchsorted(cumulative, point, right=True))
        found = torch.full((), rows.first + local if local < rows.n else rows.n_total, device=rows.device)
        last = _last_positive(squared, rows)
        chosen.append(min(int(ranks.min(found)), int(ranks.max(last))))
    return torch.tensor(chosen, device=rows.device)


def _last_positive(squared: Tensor, rows: Rows) -> Tensor:
    """Global number () of the last row with a positive weight: an upper limit, since the running sum is rounded."""
    positive = squared.nonzero().flatten()
    return (positive[-1] + rows.first) if len(positive) else torch.full((), -1, device=rows.device)
