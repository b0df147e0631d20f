"""Exact nearest neighbours by cosine similarity, computed in blocks; the (M, N) matrix of all scores never exists.

Shapes: M queries, N bank rows, D dimensions, k neighbours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._arrays import Array, as_tensor

_QUERY_ROWS, _BANK_ROWS = (
    1024,
    4096,
)  # 16 MiB of scores at a time: large enough for full GEMM speed, small enough to stay near the cache


def nearest_neighbours(queries: Array, bank: Array, k: int) -> tuple[Tensor, Tensor]:
    """Find the k bank rows with the largest cosine similarity to each query; the search is exact.

    Rows are normalised in float32; an all-zero row has cosine 0 with every other row. The computation runs on the
    device of `queries`. The bank moves there block by block, so it may be a memory map or exceed the device's memory.
    Working memory is 16 MiB of scores, one block of the bank, and the result.

    Args:
        queries: Query features (M, D), any float dtype.
        bank: Features to search (N, D), any float dtype.
        k: Number of neighbours. If k > N, all N rows are returned.

    Returns:
        indices: (M, min(k, N)) int64, best neighbour first; equal similarities are ordered by bank index.
        similarity: (M, min(k, N)) float32 cosines.

    Raises:
        ValueError: If a shape or k is invalid, or a row contains NaN or infinity.

    Example:
        ```python
        indices, similarity = nearest_neighbours(test_features, train_features, k=8)
        ```
    """
    queries, bank = as_rows(queries, "queries"), as_rows(bank, "bank")
    return stream_topk(queries, bank, k)


def as_rows(x: Array, name: str) -> Tensor:
    """Return x as a tensor. Raise ValueError unless it is a float matrix with at least one row and finite norms."""
    x = as_tensor(x)
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"{name} must be a float matrix (rows, D), got {tuple(x.shape)} {x.dtype}")
    if len(x) == 0:
        raise ValueError(f"{name} has no rows: pass at least one")
    norms = torch.cat([torch.linalg.vector_norm(block.float(), dim=1) for block in x.split(_BANK_ROWS)])
    if bad := (~norms.isfinite()).nonzero().flatten().tolist():
        raise ValueError(
            f"{name} has {len(bad)} rows with NaN or infinity, the first at {bad[:5]}: find what made them"
        )
    return x


@torch.no_grad()
def stream_topk(queries: Tensor, bank: Tensor, k: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """Compute `nearest_neighbours` of checked rows. skip_self: query i is bank row i and not its own neighbour."""
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries are (M, {queries.shape[1]}) but the bank is (N, {bank.shape[1]}): D must be equal")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    k = min(k, len(bank) - skip_self)
    device = queries.device
    n_queries = len(queries)
    indices = torch.full((n_queries, k), -1, dtype=torch.int64, device=device)
    similarity = torch.full((n_queries, k), -torch.inf, device=device)
    with torch.autocast(device.type, enabled=False):
        unit_queries = F.normalize(queries.float(), dim=1)
        # One buffer serves all products: allocating a new one each time costs page faults, 10 % of the product's time.
        buffer = torch.empty(min(_QUERY_ROWS, n_queries) * min(_BANK_ROWS, len(bank)), device=device)
        for first in range(0, len(bank), _BANK_ROWS):
            block = F.normalize(bank[first : first + _BANK_ROWS].to(device, torch.float32), dim=1)
            for start in range(0, n_queries, _QUERY_ROWS):
                part = slice(start, start + _QUERY_ROWS)
                rows = unit_queries[part]
                scores = buffer[: len(rows) * len(block)].view(len(rows), len(block))
                torch.mm(rows, block.T, out=scores)
                if skip_self and -len(scores) < start - first < len(block):
                    scores.diagonal(start - first).fill_(-torch.inf)
                _merge(scores, first, indices[part], similarity[part])
    return indices, similarity


def _merge(scores: Tensor, first: int, indices: Tensor, similarity: Tensor) -> None:
    """Update the running top k in place with the scores (M, n) of bank rows first ... first + n - 1.

    After a few blocks, few scores exceed a query's k-th best, so one comparison discards nearly all of them. Ties go to
    the smaller index: blocks arrive in order of index, `>` rejects a later equal score, and the stable sort puts new
    scores after old ones.
    """
    k = indices.shape[1]
    passes = scores > similarity[:, -1:] if first > 0 else scores >= _kth_best(scores, k)
    rows, columns = _sparse_nonzero(passes)
    n_passing = rows.bincount(minlength=len(scores))
    crowded = (n_passing > k).nonzero().flatten()
    if first > 0 and len(crowded) > 0:  # at most k of a block can enter: drop those below its own k-th best
        passes[crowded] &= scores[crowded] >= _kth_best(scores[crowded], k)
        rows, columns = _sparse_nonzero(passes)
        n_passing = rows.bincount(minlength=len(scores))
    if len(rows) == 0:
        return
    # Queries have different numbers of candidates: write them into a padded matrix, after the k best so far.
    starts = n_passing.cumsum(0) - n_passing
    place = k + torch.arange(len(rows), device=rows.device) - starts[rows]
    width = k + int(n_passing.max())
    merged_similarity = similarity.new_full((len(scores), width), -torch.inf)
    merged_indices = indices.new_full((len(scores), width), -1)
    merged_similarity[:, :k], merged_indices[:, :k] = similarity, indices
    merged_similarity[rows, place], merged_indices[rows, place] = scores[rows, columns], columns + first
    merged_similarity, order = merged_similarity.sort(dim=1, descending=True, stable=True)
    similarity.copy_(merged_similarity[:, :k])
    indices.copy_(merged_indices.gather(1, order[:, :k]))


def _kth_best(scores: Tensor, k: int) -> Tensor:
    """Return the k-th largest score of each row, (M, 1), or the smallest if a row has fewer than k."""
    return scores.topk(min(k, scores.shape[1]), sorted=False).values.amin(1, keepdim=True)


def _sparse_nonzero(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Compute flags.nonzero(as_tuple=True) for (M, n) flags that are nearly all False.

    Testing eight flags at a time as one int64 makes it nine times as fast.
    """
    if flags.shape[1] % 8:
        rows, columns = flags.nonzero(as_tuple=True)
        return rows, columns
    rows, octets = flags.view(torch.int64).nonzero(as_tuple=True)
    hits, place = flags.unflatten(1, (-1, 8))[rows, octets].nonzero(as_tuple=True)
    return rows[hits], octets[hits] * 8 + place
