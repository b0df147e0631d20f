"""Codes of a batch: ours against the usual loop, its log-domain form, POT and geomloss, in one run on one machine.

    python benchmarks/bench_sinkhorn.py --threads 1                           # the table
    python benchmarks/bench_sinkhorn.py --plot docs/images/sinkhorn.png --json sinkhorn.json
    python benchmarks/bench_sinkhorn.py --device cuda                         # also a CUDA graph, and bandwidth
    pytest benchmarks/bench_sinkhorn.py                                       # the smallest size under pytest-benchmark

All do three iterations in float32, columns first. `usual` is the function SwAV's copies share: an exponential of all
scores, then row and column sums in turn, dividing in place; `log` the same on logarithms. POT is `ot.sinkhorn`, and
`ot.batch` its log-domain solver; geomloss is `geomloss.ot.solve`, whose epsilon shrinks over its iterations, so its
codes are others. They need what they solve whole: a queue's rows are put before the batch's. A side that overflows is
timed all the same: the table counts its NaN. Errors are largest differences to `log` in float64.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sinkhorn import sinkhorn_knopp
from torch import Tensor

SIZES = {  # B, rows of the queue, K
    "small": (256, 0, 512),
    "queue": (256, 3840, 3000),
    "swav": (4096, 0, 3000),
    "wide": (4096, 0, 10000),
}
N_ITERS = 3
Side = Callable[[Tensor, Tensor, float], Tensor]  # scores, queue's scores (M, K), epsilon -> codes


def ours(scores: Tensor, extra: Tensor, epsilon: float) -> Tensor:
    return sinkhorn_knopp(scores, epsilon=epsilon, n_iters=N_ITERS, extra=extra if len(extra) else None)


def usual(scores: Tensor, extra: Tensor, epsilon: float) -> Tensor:
    q = torch.exp(_rows(scores, extra) / epsilon).T
    k, n = q.shape
    q /= q.sum()
    for _ in range(N_ITERS):
        q /= q.sum(1, keepdim=True)
        q /= k
        q /= q.sum(0, keepdim=True)
        q /= n
    q *= n
    return q.T[-len(scores) :]


def log_domain(scores: Tensor, extra: Tensor, epsilon: float) -> Tensor:
    log_q = _rows(scores, extra) / epsilon
    for _ in range(N_ITERS):
        log_q = log_q - log_q.logsumexp(0)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q[-len(scores) :].exp()


def pot(scores: Tensor, extra: Tensor, epsilon: float) -> Tensor:
    import ot

    rows = _rows(scores, extra)
    a, b = (torch.full((size,), 1 / size, device=rows.device) for size in rows.shape)
    plan = ot.sinkhorn(a, b, -rows, epsilon, numItermax=N_ITERS, stopThr=0, warn=False)
    return plan[-len(scores) :] * len(rows)


def pot_batch(scores: Tensor, extra: Tensor, epsilon: float) -> Tensor:
    import ot.batch

    rows = _rows(scores, extra)
    plan = ot.batch.solve_batch(-rows[None], reg=epsilon, max_iter=N_ITERS, tol=0, grad="detach").plan[0]
    return plan[-len(scores) :] * len(rows)


def geomloss(scores: Tensor, extra: Tensor, epsilon: float) -> Tensor:
    import geomloss.ot

    rows = _rows(scores, extra)
    return geomloss.ot.solve(-rows, reg=epsilon, max_iter=N_ITERS).plan[-len(scores) :] * len(rows)


def _rows(scores: Tensor, extra: Tensor) -> Tensor:
    return torch.cat([extra, scores]) if len(extra) else scores


SIDES: dict[str, Side] = {
    "ours": ours,
    "usual": usual,
    "log": log_domain,
    "POT": pot,
    "ot.batch": pot_batch,
    "geomloss": geomloss,
}


def cosines(n: int, k: int, dim: int = 128, seed: int = 0) -> Tensor:
    """Embeddings around the prototypes, so that the best score of a sample is near 1, as after some training."""
    prototypes = F.normalize(torch.randn(k, dim, generator=torch.Generator().manual_seed(0)))
    g = torch.Generator().manual_seed(seed + 1)
    own = prototypes[torch.randint(0, k, (n,), generator=g)]
    return F.normalize(own + 0.05 * torch.randn(n, dim, generator=g)) @ prototypes.T


def seconds(call: Callable[[], object], device: str, n_calls: int = 1) -> float:
    """Of one call, when n_calls follow each other."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n_calls):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / n_calls


def compare(sides: list[str], size: tuple[int, int, int], epsilon: float, repeats: int, device: str) -> list[dict]:
    batch, queue, k = size
    every = cosines(batch + queue, k).to(device)
    scores, extra = every[queue:], every[:queue]
    calls = {name: lambda name=name: SIDES[name](scores, extra, epsilon) for name in sides}
    expected = log_domain(scores.double(), extra.double(), epsilon).float()
    rows: list[dict[str, Any]] = []
    for name, call in list(calls.items()):
        try:
            codes = call()  # and warm up
        except ImportError:
            del calls[name]
            continue
        row = {"side": name, "batch": batch, "queue": queue, "k": k, "epsilon": epsilon}
        row["nan"] = codes.isnan().float().mean().item()
        row["error"] = (codes - expected).abs().nan_to_num(0).max().item()
        rows.append(row)
    if device == "cuda" and "ours" in calls:
        calls["ours, graph"] = graphed(calls["ours"])
        rows.append({**rows[list(calls).index("ours")], "side": "ours, graph"})
    times: dict[str, list[float]] = {name: [] for name in calls}
    n_calls = {name: max(1, int(0.02 / seconds(call, device))) for name, call in calls.items()}  # caches as in a loop
    for _ in range(repeats):
        for name, call in calls.items():  # in turn, so that all see one load
            times[name].append(seconds(call, device, n_calls[name]))
    for row in rows:
        own = times[row["side"]]
        row |= {"median_s": statistics.median(own), "least_s": min(own)}
        if "ours" in times:
            row["ours_is_faster"] = statistics.median(a / b for a, b in zip(own, times["ours"], strict=True))
        if device == "cuda" and row["side"].startswith("ours"):
            row["bytes"] = traffic(batch, queue, k, N_ITERS, scores.element_size())
            row["bandwidth_share"] = row["bytes"] / row["median_s"] / copy_bandwidth()
    return rows


def traffic(batch: int, queue: int, k: int, n_iters: int, itemsize: int) -> int:
    """Bytes the GPU passes must move: all scores once an iteration; then the batch's scores in, and its codes out."""
    return n_iters * (batch + queue) * k * itemsize + batch * k * (itemsize + 4)


def copy_bandwidth(size: int = 2**30, repeats: int = 10) -> float:
    """Bytes a second, read and written, of a copy far larger than any cache."""
    a, b = (torch.zeros(size // 4, device="cuda") for _ in range(2))
    return 2 * size / statistics.median(seconds(lambda: b.copy_(a), "cuda") for _ in range(repeats))


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """call as a CUDA graph: what waits for the device, or launches by values, fails here."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def print_table(rows: list[dict]) -> None:
    first = rows[0]
    queue = f"{first['queue']} + " if first["queue"] else ""
    print(f"\n{queue}{first['batch']} x {first['k']}, epsilon {first['epsilon']}")
    for row in rows:
        line = f"  {row['side']:<12}{row['median_s'] * 1e3:10.2f} ms (least {row['least_s'] * 1e3:.2f})"
        if "ours_is_faster" in row:
            line += f"  {row['ours_is_faster']:6.2f} x ours"
        line += f"  NaN {row['nan']:.0%}  error {row['error']:.0e}"
        if "bytes" in row:
            line += f"  {row['bytes'] / 1e6:.0f} MB, {row['bandwidth_share']:.0%} of a copy's bandwidth"
        print(line, flush=True)


def sweep(sides: list[str], repeats: int, device: str) -> list[dict]:
    """Time against K for 4,096 rows, and against rows for K = 3,000; epsilon 0.05."""
    rows = []
    for n, k in [(n, 3000) for n in (256, 1024, 4096)] + [(4096, k) for k in (128, 512, 10_000)]:
        rows += compare(sides, (n, 0, k), 0.05, repeats, device)
    return rows


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, over, fixed, value in ((axes[0], "batch", "k", 3000), (axes[1], "k", "batch", 4096)):
        for name in dict.fromkeys(row["side"] for row in rows):
            line = sorted((row[over], row["median_s"]) for row in rows if row["side"] == name and row[fixed] == value)
            axis.loglog(*zip(*line, strict=True), marker="o", markersize=3, label=name)
        points = sorted({row[over] for row in rows if row[fixed] == value})
        axis.set_xticks(points, [f"{point:,}" for point in points])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0].set(xlabel="rows   (K = 3,000)", ylabel="seconds, 3 iterations, epsilon 0.05")
    axes[1].set(xlabel="K   (4,096 rows)")
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def machine(device: str) -> dict:
    from importlib.metadata import PackageNotFoundError, version

    facts: dict[str, Any] = {"python": platform.python_version(), "threads": torch.get_num_threads()}
    for package in ("torch", "triton", "pot", "geomloss"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    info = Path("/proc/cpuinfo")
    if device == "cpu" and info.exists():
        name = next(line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line)
    return facts | {"device": name, "cpus": os.cpu_count()}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_bench_codes(benchmark: Callable, name: str, epsilon: float) -> None:
    for module in {"POT": ["ot"], "ot.batch": ["ot"], "geomloss": ["geomloss"]}.get(name, []):
        pytest.importorskip(module)
    batch, _, k = SIZES["small"]
    scores = cosines(batch, k)
    benchmark(SIDES[name], scores, scores[:0], epsilon)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--epsilon", nargs="+", type=float, default=[0.05, 0.01])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also sweep rows and K, and draw times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures: dict[str, object] = {"machine": machine(args.device)}
    print(figures["machine"])
    table: list[dict] = []
    for name in args.sizes:
        for epsilon in args.epsilon:
            rows = compare(args.sides, SIZES[name], epsilon, args.repeats, args.device)
            print_table(rows)
            table += rows
    figures["table"] = table
    if args.plot:
        figures["sweep"] = rows = sweep(args.sides, args.repeats, args.device)
        plot(rows, args.plot)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
