"""Many linear SVMs over the same rows, solved together: truncated Newton on the squared hinge, with shared products.

Shapes: N rows, D features, R = rank of the rows, P problems. A problem has a sign and a weight for each row z_i:
minimise over u (R,): f(u) = |u|^2 / 2 + sum_i weight_i max(0, 1 - sign_i <u, z_i>)^2. Weight 0 leaves row i out.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_MAX_NEWTON, _MAX_CG = 100, 300  # the protocols need less than a third: 31 Newton steps at cost 1000


class Rotated(NamedTuple):
    """Rows in the eigenbasis of their Gram matrix: linear SVMs have the same solutions, in at most N dimensions."""

    z: Tensor  # (N, R) float32
    spectrum: Tensor  # (R,) float32, descending: z.T @ z = diag(spectrum)
    basis: Tensor  # (D, R) float64, orthonormal columns: x @ basis = z; u has weights basis @ u for x


class Solution(NamedTuple):
    """Solutions of all problems."""

    u: Tensor  # (P, R) float32
    objective: Tensor  # (P,) float64
    gap: Tensor  # (P,) float64, upper bound of f(u) minus its minimum
    proven: Tensor  # (P,) bool, whether the tolerance is met


def rotate(x: Tensor) -> Rotated:
    """Rotate x (N, D) float64 into the eigenbasis of its Gram matrix, (D, D) or (N, N), whichever is smaller."""
    n, dim = x.shape
    spectrum, vectors = torch.linalg.eigh(x.T @ x if dim <= n else x @ x.T)
    spectrum, vectors = spectrum.flip(0), vectors.flip(1)
    kept = spectrum > 1e-10 * spectrum[0]  # smaller ones are rounding errors, too short to change a decision value
    spectrum, vectors = spectrum[kept], vectors[:, kept]
    if dim <= n:
        return Rotated((x @ vectors).float(), spectrum.float(), vectors)
    lengths = spectrum.sqrt()
    return Rotated((vectors * lengths).float(), spectrum.float(), x.T @ vectors / lengths)


@torch.no_grad()
def solve(rows: Rotated, signs: Tensor, weights: Tensor, start: Tensor, tolerance: float = 1e-3) -> Solution:
    """Minimise P problems with signs (P, N) float32 of +-1 and weights (P, N) float32 >= 0, from start (P, R).

    A problem is solved when its minimiser is proven to lie within tolerance * |u| of u. The proof: f is 1-strongly
    convex, so the minimiser is within |f'(u)| of u, and the minimum within |f'(u)|^2 / 2 of f(u), a fraction
    tolerance^2 of it. float32 products allow a tolerance of about 1e-4. Solved problems leave the batch.
    """
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
        # At large costs there are about as many support vectors as dimensions, and steps must be accurate: with 0.25 in
        # place of 0.02 the active sets overshoot, which takes twice as many Newton steps. A residual below half of the
        # final tolerance would be wasted.
        residual = torch.maximum(0.02 * error, 0.5 * allowed)
        d = _newton_direction(z, curvature, _preconditioner(rows.spectrum, curvature), -gradient, residual.float())
        fd = d @ z.T
        t = _line_search(u, d, y, c, f, fd)
        u, f, step = u + t * d, f + t * fd, step + 1


def _square(a: Tensor) -> Tensor:
    """Return the squared norm of each row in float64."""
    return a.square().sum(1, dtype=torch.float64)


def _preconditioner(spectrum: Tensor, curvature: Tensor) -> Tensor:
    """Return a diagonal preconditioner (P, R) for the Hessian I + z' curvature z: 1 + mean(curvature) * spectrum.

    It is exact if all rows have the same curvature. n active rows add curvature in at most n directions, mostly the
    leading ones. Beyond the first n / 4 directions the diagonal is constant, so that a flat direction is not taken for
    a steep one.
    """
    n_active = (curvature > 0).sum(1)
    level = spectrum[(n_active // 4).clamp(max=len(spectrum) - 1)]
    return 1 + curvature.mean(1, keepdim=True) * torch.maximum(spectrum, level[:, None])


def _newton_direction(z: Tensor, curvature: Tensor, diagonal: Tensor, rhs: Tensor, residual: Tensor) -> Tensor:
    """Solve (I + z' curvature z) d = rhs (P, R) by preconditioned conjugate gradients, to residual norms (P,)."""
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
    """Return the step (P, 1) along d where the slope of f is near zero, by Newton's method inside a bracket.

    The slope is a rising, piecewise linear function of the step.
    """
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
