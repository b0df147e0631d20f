"""Codes of a batch, ours against the function that SwAV's copies share, in one run on one machine.

    python benchmarks/bench_sinkhorn.py --threads 1      # the table
    pytest benchmarks/bench_sinkhorn.py                  # the same calls under pytest-benchmark

`usual` is that function in float32: an exponential of all scores, then row and column sums in turn, dividing in place.
At small epsilon it overflows, so its time there is that of wrong codes: the table counts its NaN.
"""

import argparse
import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from sinkhorn import sinkhorn_knopp
from torch import Tensor


def usual(scores: Tensor, epsilon: float = 0.05, n_iters: int = 3) -> Tensor:
    q = torch.exp(scores / epsilon).T
    k, n = q.shape
    q /= q.sum()
    for _ in range(n_iters):
        q /= q.sum(1, keepdim=True)
        q /= k
        q /= q.sum(0, keepdim=True)
        q /= n
    q *= n
    return q.T


def cosines(n: int, k: int, dim: int) -> Tensor:
    """Embeddings around the prototypes, so that the best score of a sample is near 1, as after some training."""
    g = torch.Generator().manual_seed(0)
    prototypes = F.normalize(torch.randn(k, dim, generator=g))
    own = prototypes[torch.randint(0, k, (n,), generator=g)]
    return F.normalize(own + 0.05 * torch.randn(n, dim, generator=g)) @ prototypes.T


def compare(scores: Tensor, epsilon: float, repeats: int) -> None:
    seconds: dict[str, list[float]] = {"usual": [], "ours": []}
    for _ in range(repeats + 1):
        for name, call in (("usual", usual), ("ours", sinkhorn_knopp)):  # in turn, so both see one load
            start = time.perf_counter()
            call(scores, epsilon=epsilon)
            seconds[name].append(time.perf_counter() - start)
    expected = usual(scores.double(), epsilon).float()
    line = f"epsilon {epsilon}:"
    for name, codes in (("usual", usual(scores, epsilon)), ("ours", sinkhorn_knopp(scores, epsilon=epsilon))):
        times = [s * 1e3 for s in seconds[name][1:]]
        error = (codes - expected).abs().nan_to_num(0).max().item()
        line += f"  {name} median {statistics.median(times):.0f} ms (least {min(times):.0f}), "
        line += f"NaN {codes.isnan().float().mean():.0%}, error {error:.0e};"
    ratios = [a / b for a, b in zip(seconds["usual"][1:], seconds["ours"][1:], strict=True)]
    print(f"{line}  ratio {statistics.median(ratios):.2f} (median of pairs)")


@pytest.mark.parametrize("side", [usual, sinkhorn_knopp])
def test_bench_codes(benchmark, side) -> None:  # type: ignore[no-untyped-def]
    benchmark(side, cosines(4096, 3000, 128))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--k", type=int, default=3000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.n} x {options.k}, 3 iterations")
    scores = cosines(options.n, options.k, options.dim)
    for epsilon in (0.05, 0.03, 0.01):
        compare(scores, epsilon, options.repeats)
