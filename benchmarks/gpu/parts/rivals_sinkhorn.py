"""Sinkhorn and the crops' codes beside the authors' loop in plain torch, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sinkhorn import sinkhorn_knopp
from torch import Tensor

from benchmarks.gpu.part import Figures, Part
from benchmarks.gpu.parts.kernels_sinkhorn import scores_of
from benchmarks.gpu.timing import beside_ours, in_turn

# rows of a batch, prototypes, rows of a queue: CIFAR-10, ImageNet with a small batch and a queue, with a large one
SIZES = [(512, 512, 0), (256, 3000, 3840), (4096, 3000, 0), (4096, 10_000, 0)]


def run(part: Part) -> None:
    for n, k, queued in part.size(SIZES, [(32, 30, 0), (16, 30, 64)]):
        for compiled in (False, True):
            name = f"codes {n} x {k} + {queued}, theirs {'compiled' if compiled else 'eager'}"
            part.try_(name, lambda a=(n, k, queued, compiled): measure(part, *a))


def measure(part: Part, n: int, k: int, queued: int, compiled: bool) -> Figures:
    if compiled:
        part.needs_gpu()
    scores, extra = (scores_of(m, k, torch.float32, seed).to(part.device) for seed, m in enumerate((n, queued)))
    both = torch.cat([scores, extra])
    theirs = torch.compile(as_published) if compiled else as_published
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: sinkhorn_knopp(scores, extra=extra if queued else None),
        "theirs": lambda: theirs(both)[:n],
    }
    a, b = (side() for side in sides.values())
    off = float((a - b).norm() / a.norm())
    return {"ok": off < 1e-3, "differ by": off} | beside_ours(in_turn(sides, part.device, part.size(20, 2)), "ours")


@torch.no_grad()
def as_published(scores: Tensor, epsilon: float = 0.05, n_iters: int = 3) -> Tensor:
    """Caron et al. 2020, appendix A: rows are prototypes there."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    k, n = q.shape
    for _ in range(n_iters):
        q = q / q.sum(dim=1, keepdim=True) / k
        q = q / q.sum(dim=0, keepdim=True) / n
    return (q * n).T
