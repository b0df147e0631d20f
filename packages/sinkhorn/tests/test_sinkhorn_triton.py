"""The Triton passes equal the torch ones; Triton's interpreter runs them on the CPU, in processes of their own.

That the kernels compile for a GPU, and without spilled registers, is tested in tests/test_gpu_kernels.py."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sinkhorn._passes import Passes, solve
from sinkhorn._problem import Problem
from sinkhorn._ranks import Ranks
from sinkhorn._torch_passes import TorchPasses
from torch import Tensor

# rows of the first rank's scores and extra ones, of the second's, and prototypes
SHAPES = [((7, 0), (4, 3), 5), ((0, 2), (5, 0), 33), ((1, 0), (0, 0), 1), ((3, 2), (6, 9), 130)]


def cosines(n: int, k: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z, c = torch.randn(n, 8, generator=g), torch.randn(k, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(c).T


def cases() -> list[tuple[list[list[Tensor]], float, dict[str, Any], list[list[Tensor]] | None]]:
    """(parts of each rank), epsilon, options of the problem, weights of each rank."""
    found = []
    for i, (first, second, k) in enumerate(SHAPES):
        for j in range(3):
            epsilon, dtype = (0.05, 0.01, 0.001)[(i + j) % 3], (torch.float32, torch.bfloat16, torch.float16)[j]
            parts = [[cosines(n, k, seed=100 * r + i).to(dtype) for n in ns] for r, ns in enumerate((first, second))]
            g = torch.Generator().manual_seed(i)
            shares = torch.rand(k, generator=g).double()
            weights = [[torch.rand(len(part), generator=g) for part in ranks] for ranks in parts]
            if k > 1:
                shares[0], weights[1][0][0] = 0, 0
            options = [
                (parts, epsilon, {}, None),
                (parts, epsilon, {"log_shares": shares.log()}, weights),
                (parts, epsilon, {"log_shares": shares.log(), "exponent": 0.6}, None),
            ]
            found.append(options[j])
    return found


def solved(kind: type[Passes], problem: Problem) -> tuple[Tensor, Tensor]:
    passes = kind(problem)
    log_u, _ = solve(passes, 2)
    return passes.codes(log_u), log_u - log_u.max()


def worker(rank: int, folder: str) -> None:
    from sinkhorn import _triton_passes
    from sinkhorn._triton_passes import TritonPasses

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    narrow = _triton_passes.is_wide
    every = [(False, case) for case in cases()] + [(True, case) for case in cases()[3:9]]
    for wide, (parts, epsilon, options, weights) in every:
        # wide: use the kernel for long rows on rows of any length
        patched = (lambda *_: True, 4, 32) if wide else (narrow, 16, 256)
        _triton_passes.is_wide, _triton_passes.ROWS, _triton_passes.WIDE_BLOCK = patched
        mine = {**options, "weights": None if weights is None else weights[rank]}
        codes, log_u = solved(TritonPasses, Problem(parts[rank], epsilon, Ranks(dist.group.WORLD), **mine))
        # one process with all rows; this rank's scores come first, with weight 0, so that their codes are returned
        every = [parts[rank][0], *parts[0], *parts[1]]
        counts = [torch.ones(len(part)) for part in every] if weights is None else [every[0], *weights[0], *weights[1]]
        counts[0] = torch.zeros(len(every[0]))
        expected, expected_log_u = solved(TorchPasses, Problem(every, epsilon, Ranks(None), weights=counts, **options))
        assert codes.dtype == torch.float32
        torch.testing.assert_close(codes, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(log_u, expected_log_u, atol=1e-4, rtol=1e-6)
    # without a group: any layout, extra rows, going back to earlier scales, scores that are not finite
    parts = [cosines(9, 33, seed=3).T.contiguous().T, cosines(4, 33, seed=4)]
    passes, expected = TritonPasses(Problem(parts, 0.02, Ranks(None))), TorchPasses(Problem(parts, 0.02, Ranks(None)))
    first = passes.iterate(None)
    passes.iterate(first)
    torch.testing.assert_close(passes.codes(first), expected.codes(expected.iterate(None)), atol=1e-6, rtol=0)
    for part, wrong in ((0, torch.nan), (1, torch.inf), (rank, -torch.inf)):
        poisoned = [p.clone() for p in parts]
        poisoned[part][2, 3] = wrong
        for wide in (False, True):
            _triton_passes.is_wide = lambda *_, wide=wide: wide
            assert solved(TritonPasses, Problem(poisoned, 0.05, Ranks(None)))[0].isnan().all()
            assert solved(TritonPasses, Problem(poisoned, 0.05, Ranks(None), exponent=0.6))[0].isnan().all()
    with pytest.raises(ValueError, match="scores are empty"):
        TritonPasses(Problem([parts[0][:0]], 0.05, Ranks(None)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_triton_equals_torch_on_two_ranks(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}  # numpy's, of exp(-inf)
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    mp.spawn(worker, args=(sys.argv[1],), nprocs=2)
