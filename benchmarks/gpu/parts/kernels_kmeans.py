"""k-means, whitening and ODC's memory on the device against the CPU; twice the same bits."""

from __future__ import annotations

import torch
from cluster_memory import KMeans, OnlineClusters, PCAWhitening
from torch import Tensor

from benchmarks.gpu.part import Figures, Part

# rows, clusters, dimension: multiples of 16 and not, one tile and many
SIZES = [(1000, 37, 100), (4096, 1000, 256), (10_001, 3000, 128), (777, 10_000, 512), (5, 2, 3)]
SMALL = [(200, 7, 20), (65, 33, 17), (5, 2, 3)]


def run(part: Part) -> None:
    for n, k, dim in part.size(SIZES, SMALL):
        for metric in ("euclidean", "cosine"):
            name = f"nearest of {k} centroids, {n} x {dim}, {metric}"
            part.try_(name, lambda a=(n, k, dim, metric): nearest(part, *a))
    n, k, dim = part.size((50_000, 1000, 128), (600, 12, 16))
    for metric in ("euclidean", "cosine"):
        for init in ("random", "k-means++"):
            part.try_(f"KMeans {n} x {dim}, {k}, {metric}, {init}", lambda a=(metric, init): fit(part, n, k, dim, *a))
    part.try_(f"KMeans with empty clusters, {n} x {dim}", lambda: repaired(part, n, k, dim))
    part.try_(f"PCAWhitening {n} x {dim}", lambda: whitened(part, n, dim))
    part.try_(f"OnlineClusters {n} x {dim}, {k}", lambda: online(part, n, k, dim))


def blobs(n: int, k: int, dim: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(k, dim, generator=g)
    return centres[torch.randint(k, (n,), generator=g)] + 0.7 * torch.randn(n, dim, generator=g)


def nearest(part: Part, n: int, k: int, dim: int, metric: str) -> Figures:
    """A row may go to another centroid than in float64 only where the two are equally near within float32."""
    x = blobs(n, k, dim)
    start = blobs(k, k, dim, seed=1)
    found = KMeans(k, metric, n_iters=0, init=start.to(part.device), empty="keep").fit(x.to(part.device))  # type: ignore[arg-type]
    a, b = x.double(), found.centroids_.cpu().double()
    if metric == "cosine":
        a, b = (torch.nn.functional.normalize(rows, dim=1) for rows in (a, b))
    distances = torch.cdist(a, b).square()
    chosen = distances.gather(1, found.assignments_.cpu()[:, None]).flatten()
    excess = float(((chosen - distances.amin(1)) / (a.square().sum(1) + b.square().sum(1).mean())).max())
    differ = float((found.assignments_.cpu() != distances.argmin(1)).double().mean())
    return {"ok": excess < 1e-6, "rows that differ": differ, "farther by, relative": excess}


def fit(part: Part, n: int, k: int, dim: int, metric: str, init: str) -> Figures:
    x = blobs(n, 2 * k, dim)
    there = x.to(part.device)
    fits = [KMeans(k, metric, n_iters=10, init=init, seed=0).fit(there) for _ in range(2)]  # type: ignore[arg-type]
    on_cpu = KMeans(k, metric, n_iters=10, init=init, seed=0).fit(x)  # type: ignore[arg-type]
    same = all(
        torch.equal(getattr(fits[0], name).cpu(), getattr(fits[1], name).cpu())
        for name in ("centroids_", "assignments_", "counts_")
    )
    off = abs(fits[0].inertia_ / on_cpu.inertia_ - 1)
    whole = int(fits[0].counts_.sum()) == n and int(fits[0].counts_.min()) > 0
    return {"ok": off < 1e-3 and same and whole, "inertia off, relative": off, "same bits twice": same}


def repaired(part: Part, n: int, k: int, dim: int) -> Figures:
    """Rows of few kinds, so that clusters come out empty and are filled."""
    x = blobs(n, k, dim)
    x[: n // 2] = x[0] + 1e-3 * torch.randn(n // 2, dim, generator=torch.Generator().manual_seed(5))
    start = torch.cat([x[: k // 2], 1e3 + torch.rand(k - k // 2, dim, generator=torch.Generator().manual_seed(6))])
    fits = [KMeans(k, n_iters=5, init=start.to(part.device)).fit(x.to(part.device)) for _ in range(2)]
    same = all(
        torch.equal(getattr(fits[0], a).cpu(), getattr(fits[1], a).cpu()) for a in ("centroids_", "assignments_")
    )
    none_empty = int(fits[0].counts_.min()) > 0
    return {"ok": same and none_empty, "n_repaired": fits[0].n_repaired_, "same bits twice": same}


def whitened(part: Part, n: int, dim: int) -> Figures:
    x = blobs(n, 20, dim) @ torch.randn(dim, dim, generator=torch.Generator().manual_seed(7))
    found, expected = (PCAWhitening(dim // 2).fit(rows).transform(rows).cpu() for rows in (x.to(part.device), x))
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    return {"ok": error < 1e-3, "against the CPU, relative": error}


def online(part: Part, n: int, k: int, dim: int) -> Figures:
    """The same batches into two memories on the device and one on the CPU, with splits of small clusters."""
    x = blobs(n, k, dim)
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(8))
    memories, n_splits = [], []
    for device in (part.device, part.device, torch.device("cpu")):
        g = torch.Generator().manual_seed(9)
        memory = OnlineClusters(n, dim, k, seed=0).to(device)
        memory.initialise(x.to(device), labels.to(device))
        split = 0
        for step in range(part.size(100, 12)):
            rows = torch.randperm(n, generator=g)[: part.size(512, 32)]
            noisy = x[rows] + 0.3 * torch.randn(len(rows), dim, generator=g)
            memory.update(rows.to(device), noisy.to(device))
            if step % 10 == 9:
                memory.update_centroids()
            split += memory.split_small_clusters()
        memories.append({name: value.cpu() for name, value in memory.state_dict().items()})
        n_splits.append(split)
    first, again, on_cpu = memories
    same = all(torch.equal(first[name], again[name]) for name in first)
    differ = float((first["assignments"] != on_cpu["assignments"]).double().mean())
    sums = torch.zeros_like(first["sums"]).index_add_(0, first["assignments"], first["bank"].double())
    drift = float((sums - first["sums"]).abs().max())
    ok = same and drift < 1e-6 and differ < 0.02
    return {
        "ok": ok,
        "same bits twice": same,
        "rows not as on the CPU": differ,
        "drift of sums": drift,
        "splits": n_splits[0],
    }
