"""The Triton backend: reads the scores once per iteration, in their own dtype, and allocates nothing else as large.

No call waits for the GPU and no launch depends on values, so the calls can be captured in a CUDA graph.
"""

import ctypes
import math

import torch
import triton
from torch import Tensor

from sinkhorn._problem import Problem
from sinkhorn._triton_kernels import column_sums, update, wide_column_sums, write_codes

# Rows of one program of `wide_column_sums`, and the columns that it reads at a time.
ROWS, WIDE_BLOCK = 16, 256


class TritonPasses:
    """Keeps partial column sums, (programs, K) float32, and twice as much for sums of logarithms."""

    def __init__(self, problem: Problem) -> None:
        if problem.ranks.group is None and not any(len(part) for part in problem.parts):
            raise ValueError("scores are empty: pass at least one row")
        self.problem = problem
        self.parts = [part if part.stride(1) == 1 else part.contiguous() for part in problem.parts]
        device, self.k = self.parts[0].device, self.parts[0].shape[1]
        self.block = triton.next_power_of_2(self.k)
        self.warps = warps_of(self.block)
        # the programs that run at once, 16 warps of 128 registers per multiprocessor; more programs would only write
        # more partial sums
        self.resident = _multiprocessors(device) * (16 // self.warps)
        self.scratch: dict[bool, tuple[Tensor, Tensor]] = {}  # key: whether the sums are of logarithms
        self.potentials = torch.empty(2, self.k, device=device)  # epsilon self.current, as high and low float32 parts
        self.current: Tensor | None = None

    def iterate(self, log_u: Tensor | None) -> Tensor:
        """Return log u after one more iteration; see `Passes`."""
        with torch.cuda.device_of(self.potentials):  # Triton launches on the current device, wherever the tensors are
            return self._iterate(log_u)

    def codes(self, log_u: Tensor) -> Tensor:
        """Return the codes; see `Passes`."""
        with torch.cuda.device_of(self.potentials):
            return self._codes(log_u)

    def _iterate(self, log_u: Tensor | None) -> Tensor:
        p, first = self.problem, log_u is None
        log = first or p.exponent != 1  # a column's mass may leave the range of float32
        if log_u is not None:
            self._set_potentials(log_u)
        aligns = [alignment(self.k, part.stride(0)) for part in self.parts]
        wide = is_wide(self.block, log, min(aligns))
        programs = [triton.cdiv(len(part), ROWS) if wide else min(len(part), self.resident) for part in self.parts]
        sums, peaks = self._partial(log, max(1, sum(programs)))
        row = 0
        for i, (part, count) in enumerate(zip(self.parts, programs, strict=True)):
            if count:
                weights = part if p.weights is None else p.weights[i]
                arguments = (
                    part, weights, self.potentials, sums[row:], peaks[row:], len(part), self.k, part.stride(0),
                    1 / p.epsilon,
                )  # fmt: skip
                flags = {"FIRST": first, "LOG": log, "WEIGHTED": p.weights is not None, "ALIGN": aligns[i]}
                if wide:
                    wide_column_sums[(count,)](*arguments, **flags, ROWS=ROWS, BLOCK=WIDE_BLOCK, num_warps=8)
                else:
                    column_sums[(count,)](*arguments, **flags, BLOCK=self.block, num_warps=self.warps)
            row += count
        sums, peaks = self._over_ranks(sums, peaks, log)
        new = torch.empty(self.k, dtype=torch.float64, device=part.device)
        update[(triton.cdiv(self.k, 64),)](
            sums, peaks, new if p.log_shares is None else p.log_shares, new if log_u is None else log_u, new,
            self.potentials, len(sums), self.k, *_two_floats(p.epsilon), *_two_floats(p.exponent),
            FIRST=first, LOG=log, SHARES=p.log_shares is not None, PARTS=32, BLOCK=64, ALIGN=alignment(self.k),
        )  # fmt: skip
        self.current = new
        return new

    def _codes(self, log_u: Tensor) -> Tensor:
        self._set_potentials(log_u)
        scores = self.parts[0]
        codes = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        if len(scores):
            write_codes[(min(len(scores), 4 * self.resident),)](
                scores, self.potentials, codes, len(scores), self.k, scores.stride(0), 1 / self.problem.epsilon,
                BLOCK=self.block, ALIGN=alignment(self.k, scores.stride(0)), num_warps=self.warps,
            )  # fmt: skip
        return codes

    def _set_potentials(self, log_u: Tensor) -> None:
        if log_u is not self.current:  # a tolerance was met: `solve` goes back by one iteration
            potentials = log_u * self.problem.epsilon
            self.potentials[0] = potentials
            self.potentials[1] = (potentials - self.potentials[0]).nan_to_num_(nan=0.0)  # from -inf - -inf
            self.current = log_u

    def _partial(self, log: bool, programs: int) -> tuple[Tensor, Tensor]:
        """Return buffers (programs, K) float32 for partial sums and for the peaks of logarithms; kept between calls."""
        if log not in self.scratch:
            sums = self.potentials.new_zeros(programs, self.k)  # zeros, because a rank without rows writes none
            self.scratch[log] = sums, torch.full_like(sums, -3.4e38) if log else sums
        return self.scratch[log]

    def _over_ranks(self, sums: Tensor, peaks: Tensor, log: bool) -> tuple[Tensor, Tensor]:
        """Return partial sums and peaks for `update`; with a group, a single row for all ranks together."""
        ranks = self.problem.ranks
        if ranks.group is None:
            return sums, peaks
        if not log:
            return ranks.sum(sums.sum(0, keepdim=True, dtype=torch.float64)), peaks
        highest = ranks.max(peaks.amax(0, keepdim=True))
        return ranks.sum((sums * ((peaks - highest) / self.problem.epsilon).exp_()).double().sum(0, True)), highest


def warps_of(block: int) -> int:
    """Return the warps of a program for rows of `block` entries, a power of two: 16 to 32 entries per thread."""
    return min(max(block // 512, 4), 16)


def is_wide(block: int, log: bool, align: int) -> bool:
    """Whether rows of `block` entries, a power of two, do not fit in registers beside the column sums.

    Found by compiling. Plain sums spill registers from 16384 entries on. Sums of logarithms, which need peaks too,
    spill from 8192 entries on, or from 4096 if entries are loaded one at a time.
    """
    return block > (8192 if not log else 4096 if align % 4 == 0 else 2048)


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def alignment(*lengths: int) -> int:
    """Return how many entries one load may take: the largest power of two up to 16 that divides all lengths."""
    return math.gcd(16, *lengths)


def _two_floats(value: float) -> tuple[float, float]:
    """Split a number into high and low float32 parts, because kernel arguments cannot be float64."""
    high = ctypes.c_float(value).value
    return high, value - high
