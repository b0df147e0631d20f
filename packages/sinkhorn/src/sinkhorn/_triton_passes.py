"""Passes on a GPU: the scores are read once an iteration, in their own dtype, and nothing but codes is as large.

No call waits for the device, and no launch depends on values: a CUDA graph can hold them.
"""

import ctypes

import torch
import triton
from torch import Tensor

from sinkhorn import _triton_kernels as kernels
from sinkhorn._passes import Problem


class TritonPasses:
    """Holds partial column sums, (programs, K) float32 or twice that."""

    def __init__(self, problem: Problem) -> None:
        if problem.ranks.group is None and not any(len(part) for part in problem.parts):
            raise ValueError("scores are empty: pass at least one row")
        self.problem = problem
        self.parts = [part if part.stride(1) == 1 else part.contiguous() for part in problem.parts]
        device, self.k = self.parts[0].device, self.parts[0].shape[1]
        self.block = triton.next_power_of_2(self.k)
        self.warps = min(max(self.block // 512, 4), 16)
        # programs that run at once, 16 warps of 128 registers a multiprocessor: more would only make more partial sums
        cores = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        self.resident = cores * (16 // self.warps)
        self.programs = [min(len(part), self.resident) for part in self.parts]
        self.sums = torch.zeros(max(1, sum(self.programs)), self.k, device=device)
        self.peaks = torch.full_like(self.sums, -3.4e38)
        self.potentials = torch.empty(2, self.k, device=device)  # epsilon log u, high and low; of self.current
        self.current: Tensor | None = None

    def iterate(self, log_u: Tensor | None) -> Tensor:
        with torch.cuda.device_of(self.sums):  # kernels start on the current device, wherever their tensors are
            return self._iterate(log_u)

    def codes(self, log_u: Tensor) -> Tensor:
        with torch.cuda.device_of(self.sums):
            return self._codes(log_u)

    def _iterate(self, log_u: Tensor | None) -> Tensor:
        p, first = self.problem, log_u is None
        log = first or p.log_columns
        if log_u is not None:
            self._set_potentials(log_u)
        row = 0
        for i, (part, programs) in enumerate(zip(self.parts, self.programs, strict=True)):
            if programs:
                weights = part if p.weights is None else p.weights[i]
                kernels.column_sums[(programs,)](
                    part, weights, self.potentials, self.sums[row:], self.peaks[row:], len(part), self.k,
                    part.stride(0), 1 / p.epsilon, FIRST=first, LOG=log, WEIGHTED=p.weights is not None,
                    BLOCK=self.block, num_warps=self.warps,
                )  # fmt: skip
            row += programs
        sums, peaks = self._over_ranks(log)
        new = torch.empty(self.k, dtype=torch.float64, device=part.device)
        kernels.update[(triton.cdiv(self.k, 64),)](
            sums, peaks, new if p.log_shares is None else p.log_shares, new if log_u is None else log_u, new,
            self.potentials, len(sums), self.k, *_two_floats(p.epsilon), *_two_floats(p.exponent),
            FIRST=first, LOG=log, SHARES=p.log_shares is not None, PARTS=32, BLOCK=64,
        )  # fmt: skip
        self.current = new
        return new

    def _codes(self, log_u: Tensor) -> Tensor:
        self._set_potentials(log_u)
        scores = self.parts[0]
        codes = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        if len(scores):
            kernels.write_codes[(min(len(scores), 4 * self.resident),)](
                scores, self.potentials, codes, len(scores), self.k, scores.stride(0), 1 / self.problem.epsilon,
                BLOCK=self.block, num_warps=self.warps,
            )  # fmt: skip
        return codes

    def _set_potentials(self, log_u: Tensor) -> None:
        if log_u is not self.current:  # a start, or the scales before those that met a tolerance
            potentials = log_u * self.problem.epsilon
            self.potentials[0] = potentials
            self.potentials[1] = (potentials - self.potentials[0]).nan_to_num_(nan=0.0)  # -inf less -inf
            self.current = log_u

    def _over_ranks(self, log: bool) -> tuple[Tensor, Tensor]:
        """Partial sums and peaks as `update` adds them up; with a group, one row that is those of all ranks."""
        ranks = self.problem.ranks
        if ranks.group is None:
            return self.sums, self.peaks
        if not log:
            return ranks.sum(self.sums.sum(0, keepdim=True, dtype=torch.float64)), self.peaks
        peaks = ranks.max(self.peaks.amax(0, keepdim=True))
        return ranks.sum(
            (self.sums * ((self.peaks - peaks) / self.problem.epsilon).exp_()).double().sum(0, True)
        ), peaks


def _two_floats(value: float) -> tuple[float, float]:
    """float32 high and low parts: kernels take no float64 numbers."""
    high = ctypes.c_float(value).value
    return high, value - high
