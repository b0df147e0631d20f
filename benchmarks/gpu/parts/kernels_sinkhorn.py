"""Sinkhorn on the device against a plain float64 one on the CPU."""

from __future__ import annotations

import torch
from sinkhorn import optimal_transport, sinkhorn_knopp
from torch import Tensor

from benchmarks.gpu.part import Figures, Part

EPSILON = 0.05
# rows, prototypes, rows of a queue, dtype; 3,000 is no multiple of 16, and 10,000 and 16,384 are the widest rows
SIZES = [
    (64, 30, 0, torch.float32),
    (37, 1001, 0, torch.float32),
    (5, 1, 0, torch.float32),
    (256, 3000, 3840, torch.float32),
    (512, 3000, 0, torch.bfloat16),
    (512, 3000, 0, torch.float16),
    (1000, 10_000, 0, torch.float32),
    (333, 16_384, 0, torch.float32),
    (333, 16_385, 0, torch.float32),
    (129, 257, 0, torch.float64),
]
SMALL = [
    (16, 30, 0, torch.float32),
    (37, 101, 20, torch.float32),
    (32, 48, 0, torch.bfloat16),
    (5, 1, 0, torch.float64),
]


def run(part: Part) -> None:
    for n, k, queued, dtype in part.size(SIZES, SMALL):
        name = f"sinkhorn_knopp {n} x {k} + {queued}, {str(dtype).removeprefix('torch.')}"
        part.try_(name, lambda a=(n, k, queued, dtype): codes(part, *a))
    n, k = part.size((512, 3000), (24, 30))
    part.try_(f"optimal_transport {n} x {k}, given marginals", lambda: transport(part, n, k))
    part.try_("NaN in a score", lambda: not_finite(part))


def scores_of(n: int, k: int, dtype: torch.dtype, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.nn.functional.normalize(torch.randn(m, 64, generator=g, dtype=torch.float64), dim=1) for m in (n, k))
    return (a @ b.T).to(dtype)


def by_definition(scores: Tensor, n_iters: int = 3) -> Tensor:
    q = torch.exp(scores.double() / EPSILON)
    for _ in range(n_iters):
        q /= q.sum(0)
        q /= q.sum(1, keepdim=True)
    return q


def codes(part: Part, n: int, k: int, queued: int, dtype: torch.dtype) -> Figures:
    scores = scores_of(n, k, dtype, 0)
    extra = scores_of(queued, k, dtype, 1) if queued else None
    expected = by_definition(scores if extra is None else torch.cat([scores, extra]))[:n]
    there = scores.to(part.device), None if extra is None else extra.to(part.device)
    found, again = (sinkhorn_knopp(there[0], epsilon=EPSILON, extra=there[1]) for _ in range(2))
    error = float((found.cpu().double() - expected).norm() / expected.norm())
    same = torch.equal(found.cpu(), again.cpu())
    on = found.device.type == part.device.type and found.dtype == torch.float32
    return {"ok": error < 1e-5 and same and on, "relative error": error, "same bits twice": same}


def transport(part: Part, n: int, k: int) -> Figures:
    g = torch.Generator().manual_seed(2)
    scores = scores_of(n, k, torch.float32, 3)
    rows, columns = (0.5 + torch.rand(m, generator=g, dtype=torch.float64) for m in (n, k))
    q = torch.exp(scores.double() / EPSILON)
    v = rows
    for _ in range(3):
        u = columns / columns.sum() * rows.sum() / (q.T @ v)
        v = rows / (q @ u)
    expected = v[:, None] * q * u
    expected = expected / expected.sum(1, keepdim=True)
    found = optimal_transport(
        scores.to(part.device),
        epsilon=EPSILON,
        row_marginals=rows.float().to(part.device),
        column_marginals=columns.float().to(part.device),
    ).codes
    error = float((found.cpu().double() - expected).norm() / expected.norm())
    return {"ok": error < 1e-5, "relative error": error}


def not_finite(part: Part) -> Figures:
    """Nothing waits for the device, so codes are NaN; where torch computes them, it is a ValueError."""
    scores = scores_of(16, 30, torch.float32, 4).to(part.device)
    scores[3, 4] = torch.nan
    try:
        found = sinkhorn_knopp(scores)
    except ValueError:
        return {"ok": True, "answer": "ValueError"}
    return {"ok": bool(found.isnan().all()), "answer": "NaN"}
