"""k-means, ours against faiss, scikit-learn and plain torch, in one run on one machine.

    python benchmarks/bench_kmeans.py --sizes small cifar reference     # the table; imagenet takes minutes and 2 GB
    python benchmarks/bench_kmeans.py --plot docs/images/kmeans.png --json kmeans.json
    python benchmarks/bench_kmeans.py --out-of-core 1000000             # peak memory; 10,000,000 rows are 2.56 GB
    pytest benchmarks/bench_kmeans.py                                   # the small size under pytest-benchmark

Every side gets the same K distinct rows to start from and updates the centroids as often, without leaving out rows
(faiss: max_points_per_centroid=N) and without stopping early. Seconds are those of `fit` as a user calls it. Ours also
returns assignments that belong to the returned centroids, one pass more than faiss makes; `faiss + search` has it too.
faiss-cpu's wheel brings an OpenBLAS of 2021 that knows few CPUs and falls back to SSE3; it is told which kernels to
use, unless --faiss-as-installed. The inertia of each side's centroids is measured by one function, and shown as a
difference to faiss'. On a machine that others use, OMP_NUM_THREADS=1 gives steadier ratios.
`mixture`: N/50 normal centres with normal noise as wide; `normal`: no clusters at all, the hardest case for limits."""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cluster_memory import KMeans
from torch import Tensor

SIZES = {  # N, D, K, updates
    "small": (10_000, 64, 100, 10),
    "cifar": (50_000, 128, 1_000, 10),
    "reference": (100_000, 256, 2_000, 10),
    "imagenet": (1_281_167, 128, 3_000, 10),
}
Side = Callable[[Tensor, Tensor, int], Tensor]


def ours(x: Tensor, start: Tensor, n_iters: int) -> Tensor:
    return KMeans(len(start), n_iters=n_iters, init=start, empty="keep").fit(x).centroids_


def faiss_kmeans(x: Tensor, start: Tensor, n_iters: int) -> Tensor:
    import faiss

    engine = faiss.Kmeans(
        x.shape[1],
        len(start),
        niter=n_iters,
        gpu=x.is_cuda,
        max_points_per_centroid=len(x),
        min_points_per_centroid=1,
    )
    engine.train(x.cpu().numpy(), init_centroids=start.cpu().numpy())
    return torch.from_numpy(engine.centroids).to(x.device)


def faiss_search(x: Tensor, start: Tensor, n_iters: int) -> Tensor:
    import faiss

    centroids = faiss_kmeans(x, start, n_iters)
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(centroids.cpu().numpy())
    index.search(x.cpu().numpy(), 1)
    return centroids


def scikit_learn(x: Tensor, start: Tensor, n_iters: int) -> Tensor:
    from sklearn.cluster import KMeans as SklearnKMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge
        fitted = SklearnKMeans(len(start), init=start.cpu().numpy(), n_init=1, max_iter=n_iters, tol=0).fit(x.numpy())
    return torch.from_numpy(fitted.cluster_centers_)


def plain_torch(x: Tensor, start: Tensor, n_iters: int) -> Tensor:
    """As it is written on a board, in chunks that fit memory."""
    centroids = start
    for _ in range(n_iters):
        labels = torch.cat([torch.cdist(part, centroids).argmin(1) for part in x.split(8192)])
        sums = torch.zeros_like(centroids).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=len(centroids))[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
    return centroids


def masked_torch(x: Tensor, start: Tensor, n_iters: int) -> Tensor:
    """As small torch packages do it: all similarities at once, and sums as a product with a K x N mask."""
    centroids = start
    for _ in range(n_iters):
        similarity = 2 * x @ centroids.T - x.square().sum(1, keepdim=True) - centroids.square().sum(1)
        closest = similarity.max(1).indices
        mask = (closest == torch.arange(len(centroids), device=x.device)[:, None]).to(x.dtype)
        counts = mask.sum(1, keepdim=True)
        centroids = torch.where(counts > 0, mask @ x / counts.clamp_min(1), centroids)
    return centroids


def flash(x: Tensor, start: Tensor, n_iters: int) -> Tensor:
    from flash_kmeans import batch_kmeans_Euclid

    return batch_kmeans_Euclid(x[None], len(start), max_iters=n_iters, tol=-1.0, init_centroids=start[None])[1][0]


SIDES: dict[str, Side] = {
    "ours": ours,
    "faiss": faiss_kmeans,
    "faiss + search": faiss_search,
    "scikit-learn": scikit_learn,
    "plain torch": plain_torch,
    "masked torch": masked_torch,
    "flash-kmeans": flash,
}
MODULES = {"faiss": "faiss", "faiss + search": "faiss", "scikit-learn": "sklearn", "flash-kmeans": "flash_kmeans"}


def faster_faiss() -> None:
    """OpenBLAS reads this when faiss is first imported."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    kernels = "SkylakeX" if " avx512f" in flags else "Haswell" if " avx2" in flags else ""
    if kernels:
        os.environ.setdefault("OPENBLAS_CORETYPE", kernels)


def usable(name: str, n: int, k: int, device: str) -> bool:
    """Whether a side is installed, runs on this device and fits its memory."""
    if name == "masked torch" and n * k > 2.5e8:
        return False
    if name == ("flash-kmeans" if device == "cpu" else "scikit-learn"):
        return False
    try:
        return name not in MODULES or bool(__import__(MODULES[name]))
    except ImportError:
        return False


def samples(kind: str, n: int, dim: int, k: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Rows (n, dim), and k distinct ones of them to start from."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, dim, generator=g)
    if kind == "mixture":
        centres = torch.randn(n // 50, dim, generator=g)
        x += centres[torch.randint(0, len(centres), (n,), generator=g)]
    return x.to(device), x[torch.randperm(n, generator=g)[:k]].to(device)


def seconds(side: Side, x: Tensor, start: Tensor, n_iters: int) -> tuple[float, Tensor]:
    if x.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    centroids = side(x, start, n_iters)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, centroids


def inertia(x: Tensor, centroids: Tensor) -> float:
    return sum(float(torch.cdist(part, centroids).amin(1).double().square().sum()) for part in x.split(8192))


def compare(names: list[str], kind: str, size: tuple[int, int, int, int], repeats: int, device: str) -> list[dict]:
    """Each side's seconds, taking turns so that all see one load, and its inertia; one row a side."""
    n, dim, k, n_iters = size
    x, start = samples(kind, n, dim, k, device)
    names = [name for name in names if usable(name, n, k, device)]
    times: dict[str, list[float]] = {name: [] for name in names}
    found = {}
    for name in names:  # first calls pay for pages, pools and kernels
        SIDES[name](x[: max(2 * k, n // 20)], start, 1)
    for _ in range(repeats):
        for name in names:
            elapsed, found[name] = seconds(SIDES[name], x, start, n_iters)
            times[name].append(elapsed)
    least = {name: inertia(x, centroids) for name, centroids in found.items()}
    reference = least.get("faiss", least[names[0]])
    return [
        {
            "side": name,
            "data": kind,
            "n": n,
            "dim": dim,
            "k": k,
            "n_iters": n_iters,
            "median_s": statistics.median(times[name]),
            "times_s": times[name],
            "inertia": least[name],
            "inertia_difference": least[name] / reference - 1,
        }
        for name in names
    ]


def print_table(rows: list[dict]) -> None:
    base = next(row["median_s"] for row in rows if row["side"] == "ours") if "ours" in {r["side"] for r in rows} else 0
    first = rows[0]
    print(f"\n{first['data']}, N={first['n']:,} D={first['dim']} K={first['k']:,}, {first['n_iters']} updates")
    for row in rows:
        ratio = f"{row['median_s'] / base:6.2f} x ours" if base else ""
        spread = f"{min(row['times_s']):.3f}-{max(row['times_s']):.3f}"
        print(
            f"  {row['side']:<15}{row['median_s']:9.3f} s  ({spread}) {ratio}  inertia {row['inertia_difference']:+.4%}"
        )


def sweep(names: list[str], kind: str, repeats: int, device: str) -> list[dict]:
    """Time against N at K = 500, and against K at N = 50,000; D = 128."""
    rows = []
    for n, k in [(n, 500) for n in (5_000, 10_000, 20_000, 50_000, 100_000)] + [
        (50_000, k) for k in (50, 100, 200, 1_000, 2_000, 4_000)
    ]:
        rows += compare(names, kind, (n, 128, k, 3), repeats, device)
        print_table([row for row in rows if (row["n"], row["k"]) == (n, k)])
    return rows


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, over, fixed, value in ((axes[0], "n", "k", 500), (axes[1], "k", "n", 50_000)):
        for name in dict.fromkeys(row["side"] for row in rows):
            line = sorted((row[over], row["median_s"]) for row in rows if row["side"] == name and row[fixed] == value)
            if line:
                axis.loglog(*zip(*line, strict=True), marker="o", markersize=3, label=name)
        axis.set_xlabel(f"{over.upper()}   ({fixed.upper()} = {value:,}, D = {rows[0]['dim']})")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel(f"seconds, {rows[0]['n_iters']} updates")
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def out_of_core(n: int, dim: int = 128, k: int = 1_000, n_iters: int = 2) -> dict:
    """Peak memory of this process while it clusters a float16 file; the file is removed afterwards."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(k, dim, generator=g)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.f16"
        with path.open("wb") as file:
            for first in range(0, n, 2**17):
                m = min(2**17, n - first)
                block = centres[torch.randint(0, k, (m,), generator=g)] + torch.randn(m, dim, generator=g)
                file.write(block.half().numpy().tobytes())
        before = peak_mib()
        x = np.memmap(path, dtype=np.float16, mode="r", shape=(n, dim))
        began = time.perf_counter()
        result = KMeans(k, n_iters=n_iters).fit(x)
        row = {
            "n": n,
            "dim": dim,
            "k": k,
            "n_iters": n_iters,
            "seconds": time.perf_counter() - began,
            "file_mib": path.stat().st_size / 2**20,
            "peak_before_mib": before,
            "peak_mib": peak_mib(),
            "inertia_per_row": result.inertia_ / n,
        }
    print("\nout of core: " + ", ".join(f"{key} {value:,.5g}" for key, value in row.items()))
    return row


def peak_mib() -> float:
    """Peak resident memory of this process; pages of mapped files count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def machine(device: str) -> dict:
    facts: dict[str, object] = {"openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"), "torch": torch.__version__}
    facts |= {"threads": torch.get_num_threads(), "python": platform.python_version()}
    try:
        import faiss

        facts["faiss"] = faiss.__version__
    except ImportError:
        pass
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    info = Path("/proc/cpuinfo")
    if device == "cpu" and info.exists():
        name = next(line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line)
    return facts | {"device": name, "cpus": os.cpu_count()}


@pytest.mark.parametrize("name", [name for name in SIDES if name != "flash-kmeans"])
def test_small(benchmark: Callable, name: str) -> None:
    n, dim, k, n_iters = SIZES["small"]
    faster_faiss()
    if not usable(name, n, k, "cpu"):
        pytest.skip(f"{name} is not installed")
    x, start = samples("mixture", n, dim, k)
    benchmark.pedantic(SIDES[name], (x, start, n_iters), rounds=5, warmup_rounds=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["small", "cifar"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--data", nargs="+", choices=["mixture", "normal"], default=["mixture", "normal"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--faiss-as-installed", action="store_true", help="leave the choice of kernels to its OpenBLAS")
    parser.add_argument("--out-of-core", type=int, metavar="N", help="only measure memory on a file of N x 128 float16")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also sweep N and K, and draw times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    args = parser.parse_args()
    if not args.faiss_as_installed:
        faster_faiss()
    figures: dict[str, object] = {"machine": machine(args.device)}
    print(figures["machine"])
    if args.out_of_core:
        figures["out_of_core"] = out_of_core(args.out_of_core)
    else:
        table: list[dict] = []
        for name in args.sizes:
            for kind in args.data:
                rows = compare(args.sides, kind, SIZES[name], args.repeats, args.device)
                print_table(rows)
                table += rows
        figures["table"] = table
        if args.plot:
            figures["sweep"] = rows = sweep(args.sides, args.data[0], args.repeats, args.device)
            plot(rows, args.plot)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
