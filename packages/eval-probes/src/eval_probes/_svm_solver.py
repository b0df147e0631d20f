"""Many linear SVMs over the same rows: the squared hinge by truncated Newton steps that share their products.

N rows, D features, R = rank of the rows, P problems. A problem is a row of signs and a row of weights:
minimise over u (R,): f(u) = |u|^2 / 2 + sum_i weight_i max(0, 1 - sign_i <u, z_i>)^2; weight 0 leaves row i out."""

from typing import NamedTuple

import torch
from torch import Tensor

_MAX_NEWTON, _MAX_CG = 100, 300  # what the protocols need stays below a third: 31 Newton steps at cost 1000


class Rotated(NamedTuple):
    """Rows in the eigenbasis of their Gram matrix: linear SVMs are the same there, in at most N dimensions."""

    z: Tensor  # (N, R) float32
    spectrum: Tensor  # (R,) float32, falling: z.T @ z = diag(spectrum)
    basis: Tensor  # (D, R) float64, orthonormal columns: x @ basis = z, and weights in x are basis @ u


class Solution(NamedTuple):
    u: Tensor  # (P, R) float32
    objective: Tensor  # (P,) float64
    gap: Tensor  # (P,) float64, f(u) is at most this above its minimum
    proven: Tensor  # (P,) bool, whether the tolerance was met


def rotate(x: Tensor) -> Rotated:
    """The eigenbasis of x (N, D) float64, from whichever of the two Gram matrices is smaller."""
    n, dim = x.shape
    spectrum, vectors = torch.linalg.eigh(x.T @ x if dim <= n else x @ x.T)
    spectrum, vectors = spectrum.flip(0), vectors.flip(1)
    kept = spectrum > 1e-10 * spectrum[0]  # below: rounding, and too short to move any decision value
    spectrum, vectors = spectrum[kept], vectors[:, kept]
    if dim <= n:
        return Rotated((x @ vectors).float(), spectrum.float(), vectors)
    lengths = spectrum.sqrt()
    return Rotated((vectors * lengths).float(), spectrum.float(), x.T @ vectors / lengths)


@torch.no_grad()
def solve(rows: Rotated, signs: Tensor, weights: Tensor, start: Tensor, tolerance: float = 1e-3) -> Solution:
    """Minimise all P problems from start (P, R), each until u is proven within tolerance * |u| of the minimiser.

    signs: (P, N) float32 of +-1; weights: (P, N) float32, >= 0. The proof: f is 1-strongly convex, so the minimiser is
    within |f'(u)| of u and the minimum within |f'(u)|^2 / 2 of f(u), a fraction tolerance^2 of it. float32 products
    reach about 1e-4. Solved problems leave the batch."""
    z = rows.z
    solution = Solution(
        start.clone(),
        objective=torch.zeros(len(start), dtype=torch.float64, device=z.device),
        gap=torch.zeros(len(start), dtype=torch.float64, device=z.device),
        proven=torch.zeros(len(start), dtype=torch.bool, device=z.device),
    )
    live = torch.arange(len(start), device=z.device)
    u, y, c = start, signs, weights
    f = u @ z.T
    step = 0
    while True:
        slack = (1 - y * f).clamp(min=0)
        objective = _square(u) / 2 + (c * slack * slack).sum(1, dtype=torch.float64)
        gradient = u - 2 * (c * y * slack) @ z
        error, allowed = _square(gradient).sqrt(), tolerance * _square(u).sqrt()
        proven = error <= allowed
        done = proven | (step == _MAX_NEWTON)
        for kept, now in zip(solution, (u, objective, error.square() / 2, proven), strict=True):
            kept[live[done]] = now[done]
        if done.all():
            return solution
        live, u, y, c, f, slack, gradient, error, allowed = (
            t[~done] for t in (live, u, y, c, f, slack, gradient, error, allowed)
        )
        curvature = 2 * c * (slack > 0)
        # Steps must be accurate where support vectors are about as many as dimensions (large costs): at 0.25 instead of
        # 0.02 the active sets overshoot and take twice as many Newton steps. Never below half of what ends it all.
        residual = torch.maximum(0.02 * error, 0.5 * allowed)
        d = _newton_direction(z, curvature, _preconditioner(rows.spectrum, curvature), -gradient, residual.float())
        fd = d @ z.T
        t = _line_search(u, d, y, c, f, fd)
        u, f, step = u + t * d, f + t * fd, step + 1


def _square(a: Tensor) -> Tensor:
    return a.square().sum(1, dtype=torch.float64)


def _preconditioner(spectrum: Tensor, curvature: Tensor) -> Tensor:
    """Diagonal (P, R) for the Hessian I + z' curvature z: 1 + mean(curvature) spectrum, exact if all rows weigh alike.

    n active rows bend at most n directions, the strong ones first; beyond the strongest n / 4 the estimate is held
    level, since directions that nothing bends must not be taken for stiff ones."""
    n_active = (curvature > 0).sum(1)
    level = spectrum[(n_active // 4).clamp(max=len(spectrum) - 1)]
    return 1 + curvature.mean(1, keepdim=True) * torch.maximum(spectrum, level[:, None])


def _newton_direction(z: Tensor, curvature: Tensor, diagonal: Tensor, rhs: Tensor, residual: Tensor) -> Tensor:
    """Preconditioned conjugate gradients for (I + z' curvature z) d = rhs (P, R), each to its residual norm (P,)."""
    solved = torch.zeros_like(rhs)
    live = torch.arange(len(rhs), device=z.device)
    d, r = torch.zeros_like(rhs), rhs
    p = r / diagonal
    rho = (r * p).sum(1, keepdim=True)
    for step in range(_MAX_CG + 1):
        done = (torch.linalg.vector_norm(r, dim=1) <= residual) | (step == _MAX_CG)
        if done.any():
            solved[live[done]] = d[done]
            if done.all():
                break
            live, d, r, p, rho, curvature, diagonal, residual = (
                t[~done] for t in (live, d, r, p, rho, curvature, diagonal, residual)
            )
        hp = p + (curvature * (p @ z.T)) @ z
        alpha = rho / (p * hp).sum(1, keepdim=True)
        d, r = d + alpha * p, r - alpha * hp
        s = r / diagonal
        rho_next = (r * s).sum(1, keepdim=True)
        p, rho = s + rho_next / rho * p, rho_next
    return solved


def _line_search(u: Tensor, d: Tensor, y: Tensor, c: Tensor, f: Tensor, fd: Tensor) -> Tensor:
    """Steps (P, 1) at which the slope along d, rising and piecewise linear, all but vanishes: Newton in a bracket."""
    linear, quadratic = (u * d).sum(1, dtype=torch.float64), _square(d)
    first = linear - 2 * (c * y * (1 - y * f).clamp(min=0) * fd).sum(1, dtype=torch.float64)
    t = torch.ones_like(first)
    low, high = torch.zeros_like(t), torch.full_like(t, torch.inf)
    for _ in range(20):
        slack = (1 - y * (f + t.float()[:, None] * fd)).clamp(min=0)
        slope = linear + t * quadratic - 2 * (c * y * slack * fd).sum(1, dtype=torch.float64)
        if (slope.abs() <= 0.1 * first.abs()).all():
            break
        bend = quadratic + 2 * (c * (slack > 0) * fd * fd).sum(1, dtype=torch.float64)
        low, high = torch.where(slope < 0, t, low), torch.where(slope < 0, high, t)
        newton = t - slope / bend
        middle = torch.where(high.isinf(), 2 * t, (low + high) / 2)
        t = torch.where((newton > low) & (newton < high), newton, middle)
    return t.float()[:, None]
