"""The torch backend: exponentiates every entry once, then reads the float32 result once per iteration."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sinkhorn._errors import NotFinite
from sinkhorn._problem import Problem
from sinkhorn._rows import row_blocks

# The plain case is |scores| / epsilon <= 36: exp(scores / epsilon) fits in float32, and so do all sums (below 1e37)
# while u is in [e^-72, 1]. Cosine scores are plain for every epsilon >= 0.028. Otherwise the kernel that is kept is
# exp((scores + g - m) / epsilon), with potentials g of columns and m of rows that make the largest entry of each row 1
# ("absorption", Schmitzer 2019, SIAM J. Sci. Comput. 41, section 3). Exponents are clamped at -60, because processors
# are slow when products underflow. With u in [e^-20, 1], hence v <= e^20, the clamp adds at most n e^-40 to a mass.
# Masses below 1e-6 are recomputed on logarithms.
_PLAIN_LIMIT, _PLAIN_RANGE = 36.0, 72.0
_LEAST_EXPONENT, _RANGE, _LEAST_MASS = -60.0, 20.0, 1e-6


class TorchPasses:
    """Keeps the kernel, float32, as large as all scores. Raises NotFinite, or ValueError if there are no scores."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.plain = _peak(problem) <= _PLAIN_LIMIT * problem.epsilon  # the peak of all ranks, so all ranks agree
        self.kernels = [torch.empty(part.shape, dtype=torch.float32, device=part.device) for part in problem.parts]
        self.blocks = list(self._blocks(torch.float32))
        self.absorbed = problem.parts[0].new_zeros(problem.parts[0].shape[1], dtype=torch.float64)  # g / epsilon (K,)
        self.unused = None if problem.log_shares is None else problem.log_shares == -torch.inf

    def iterate(self, log_u: Tensor | None) -> Tensor:
        """Return log u after one more iteration; see `Passes`."""
        p = self.problem
        fresh, u, log_scale = self._absorb(log_u)
        mass = torch.zeros_like(self.absorbed)
        for block, kernel, weight in self.blocks:
            shift = self._fill(block, kernel) if fresh else None
            if log_u is not None:
                v = (kernel @ u).reciprocal_()
            else:
                v = torch.ones_like(kernel[:, 0]) if shift is None else shift.exp_().float()
            mass += kernel.T @ (v if weight is None else v.mul_(weight))
        mass = p.ranks.sum(mass)
        if self.unused is not None:
            mass.masked_fill_(self.unused, 1)
        if not self.plain and mass.min() < _LEAST_MASS:
            log_mass = self._exact_log_mass(log_u)
        else:
            log_mass = mass.log_() - (self.absorbed + log_scale)
        if p.log_shares is None or self.unused is None:
            return log_mass.mul_(-p.exponent)
        return (p.exponent * (p.log_shares - log_mass)).masked_fill_(self.unused, -torch.inf)

    def codes(self, log_u: Tensor) -> Tensor:
        """Return the codes, written over the kernel; see `Passes`."""
        fresh, u, _ = self._absorb(log_u)
        for block, kernel in zip(row_blocks(self.problem.parts[0]), row_blocks(self.kernels[0]), strict=True):
            if fresh:
                self._fill(block, kernel)
            kernel *= u
            kernel /= kernel.sum(1, keepdim=True)
        return self.kernels[0]

    def _absorb(self, log_u: Tensor | None) -> tuple[bool, Tensor, float]:
        """Split log u into the part that the kernel absorbs and the rest.

        Returns whether the kernel must be computed again, the rest as u (K,) scaled so that its largest entry is 1, and
        the logarithm of that scale.
        """
        if log_u is None:
            if not self.plain:
                peaks = self._column_peaks()
                if self.unused is not None:
                    peaks.masked_fill_(self.unused, torch.inf)  # so that no row has its largest entry there
                self.absorbed = -peaks / self.problem.epsilon
            return True, torch.ones_like(self.absorbed, dtype=torch.float32), 0.0
        log_rest = log_u - self.absorbed
        if self.unused is not None:
            log_rest[self.unused] = log_rest[~self.unused].max()
        low, high = (float(limit) for limit in log_rest.aminmax())
        fresh = high - low > (_PLAIN_RANGE if self.plain else _RANGE)
        if fresh:
            self.absorbed, self.plain = log_u, False
            log_rest, high = torch.zeros_like(log_u), 0.0
        u = (log_rest - high).exp_().float()
        return fresh, u if self.unused is None else u.masked_fill_(self.unused, 0), high

    def _column_peaks(self) -> Tensor:
        """Return the largest score of each column over all ranks, (K,) float64."""
        peaks = torch.full_like(self.absorbed, -torch.inf)
        for block, _, _ in self.blocks:
            peaks = torch.maximum(peaks, block.amax(0))
        return self.problem.ranks.max(peaks)

    def _fill(self, block: Tensor, kernel: Tensor) -> Tensor | None:
        """Set kernel = exp((block + g - m) / epsilon). Returns m / epsilon (rows,) float64, None in the plain case."""
        epsilon = self.problem.epsilon
        if self.plain:
            torch.div(block.float(), epsilon, out=kernel).exp_()
            return None
        # in float64 until the exponent is near 0, since float32 has an error of 6e-5 in an exponent of 1000
        peaks = []
        for rows, out in zip(row_blocks(block, torch.float64), row_blocks(kernel, torch.float64), strict=True):
            raised = rows.to(torch.float64, copy=True).add_(self.absorbed * epsilon)
            peak = raised.amax(1, keepdim=True)
            out.copy_(raised.sub_(peak)).div_(epsilon).clamp_(min=_LEAST_EXPONENT).exp_()
            peaks.append(peak[:, 0])
        return torch.cat(peaks) / epsilon

    def _exact_log_mass(self, log_u: Tensor | None) -> Tensor:
        """Compute log(kernel^T v) (K,) from logarithms, in float64."""
        p, total = self.problem, torch.full_like(self.absorbed, -torch.inf)
        for block, _, weight in self._blocks(torch.float64):
            log_rows = block.double() / p.epsilon
            if log_u is not None:
                log_rows -= (log_rows + log_u).logsumexp(1, keepdim=True)
            if weight is not None:
                log_rows += weight.double().log()[:, None]
            total = torch.logaddexp(total, log_rows.logsumexp(0))
        high = p.ranks.max(total.clone())
        return high + p.ranks.sum((total - high).exp_()).log()

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield blocks of rows of all parts, with the same rows of their kernels and weights."""
        for i, (part, kernel) in enumerate(zip(self.problem.parts, self.kernels, strict=True)):
            start = 0
            for block, out in zip(row_blocks(part, dtype), row_blocks(kernel, dtype), strict=True):
                weights = self.problem.weights
                yield block, out, None if weights is None else weights[i][start : start + len(block)]
                start += len(block)


def _peak(problem: Problem) -> float:
    """Return the largest |score| of all ranks. All ranks raise together if it is not finite or no rank has scores."""
    parts = problem.parts
    limits = [float(limit.abs()) for part in parts if part.numel() for limit in part.aminmax()]
    peak = max((limit if limit == limit else float("inf") for limit in limits), default=-1.0)
    if problem.ranks.group is not None:
        peak = problem.ranks.max(torch.full((), peak, dtype=torch.float64, device=parts[0].device)).item()
    if peak < 0:
        raise ValueError("scores are empty on every rank: pass at least one row")
    if peak == float("inf"):
        bad = [(~part.isfinite().all(1)).nonzero().flatten()[:10].tolist() for part in parts]
        named = [f"rows {rows} of {name}" for name, rows in zip(("scores", "extra"), bad, strict=False) if rows]
        where = " and ".join(named) or "rows of another rank"
        raise NotFinite(f"scores must be finite, got NaN or infinity in {where}: look at the embeddings they come from")
    return peak
