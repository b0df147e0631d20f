"""k-means beside plain torch, scikit-learn and faiss: the same first centroids, as many iterations."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from cluster_memory import KMeans
from torch import Tensor

from benchmarks.gpu.part import Figures, NotRun, Part
from benchmarks.gpu.timing import beside_ours, in_turn

N_ITERS = 5
# rows, clusters, dimension: one clustering of CIFAR-10, of ImageNet at SwAV's size, and at DeepCluster's
SIZES = [(50_000, 1000, 128), (1_000_000, 3000, 128), (1_000_000, 10_000, 256)]


def run(part: Part) -> None:
    for n, k, dim in part.size(SIZES, [(2000, 20, 16)]):
        size = f"{n} x {dim}, {k} clusters, {N_ITERS} iterations"
        part.try_(f"k-means, {size}", lambda a=(n, k, dim): on_device(part, *a))
    n, k, dim = part.size((50_000, 1000, 128), (2000, 20, 16))
    part.try_(f"beside scikit-learn on the CPU, {n} x {dim}, {k}", lambda: beside_sklearn(part, n, k, dim))
    part.try_(f"beside faiss, {n} x {dim}, {k}", lambda: beside_faiss(part, n, k, dim))


def rows_of(part: Part, n: int, k: int, dim: int) -> tuple[Tensor, Tensor]:
    """(n, dim) around 2 k centres, and k of them to start from."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(2 * k, dim, generator=g)
    x = torch.randn(n, dim, generator=g) + centres[torch.randint(2 * k, (n,), generator=g)]
    return x.to(part.device), x[torch.randperm(n, generator=g)[:k]].to(part.device)


def on_device(part: Part, n: int, k: int, dim: int) -> Figures:
    x, start = rows_of(part, n, k, dim)
    half = x.bfloat16()
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: KMeans(k, n_iters=N_ITERS, init=start, empty="keep").fit(x).centroids_,
        "cdist": lambda: lloyd(x, start, by_cdist),
        "product": lambda: lloyd(x, start, by_product),
        # as flash-style k-means does it, in plain torch: tensor cores, rounded distances
        "product in bf16": lambda: lloyd(
            x, start, lambda rows, centroids, part: by_product(half[part], centroids, part)
        ),
    }
    figures = beside_ours(in_turn(sides, part.device, part.size(3, 1)), "ours")
    inertias = {name: inertia(x, side()) for name, side in sides.items()}
    figures |= {f"{name}, inertia / ours": i / inertias["ours"] for name, i in inertias.items() if name != "ours"}
    return {"ok": abs(inertias["product"] / inertias["ours"] - 1) < 1e-3} | figures


Assign = Callable[[Tensor, Tensor, slice], Tensor]


def lloyd(x: Tensor, start: Tensor, assign: Assign) -> Tensor:
    """Centroids after N_ITERS updates, in blocks of rows; an empty cluster keeps its centroid."""
    centroids = start
    block = max(1, 2**28 // len(start))  # a GiB of float32 distances
    for _ in range(N_ITERS):
        sums, counts = torch.zeros_like(centroids), torch.zeros(len(centroids), device=x.device)
        for first in range(0, len(x), block):
            part = slice(first, first + block)
            labels = assign(x[part], centroids, part)
            sums.index_add_(0, labels, x[part])
            counts += torch.bincount(labels, minlength=len(centroids))
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
    return centroids


def by_cdist(rows: Tensor, centroids: Tensor, _: slice) -> Tensor:
    return torch.cdist(rows, centroids).argmin(1)


def by_product(rows: Tensor, centroids: Tensor, _: slice) -> Tensor:
    scores = rows @ centroids.to(rows.dtype).T
    return torch.sub(centroids.square().sum(1) / 2, scores).argmin(1)


def inertia(x: Tensor, centroids: Tensor) -> float:
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in x.split(max(1, 2**27 // len(centroids))):
        nearest = centroids[by_product(rows, centroids, slice(None))]
        total += (rows.double() - nearest.double()).square().sum()
    return float(total)


def beside_sklearn(part: Part, n: int, k: int, dim: int) -> Figures:
    from sklearn.cluster import KMeans as SklearnKMeans

    x, start = rows_of(part, n, k, dim)
    theirs = SklearnKMeans(k, init=start.cpu().numpy(), n_init=1, max_iter=N_ITERS, tol=0, algorithm="lloyd")
    on_cpu = x.cpu().numpy()
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: KMeans(k, n_iters=N_ITERS, init=start, empty="keep").fit(x),
        "scikit-learn": lambda: theirs.fit(on_cpu),
    }
    return beside_ours(in_turn(sides, part.device, 1), "ours")


def beside_faiss(part: Part, n: int, k: int, dim: int) -> Figures:
    if not importlib.util.find_spec("faiss"):
        raise NotRun("faiss is not installed")
    import faiss

    x, start = rows_of(part, n, k, dim)
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: KMeans(k, n_iters=N_ITERS, init=start, empty="keep").fit(x),
        "faiss": lambda: KMeans(k, n_iters=N_ITERS, init=start, backend="faiss").fit(x),
    }
    return beside_ours(in_turn(sides, part.device, 1), "ours") | {"faiss sees GPUs": faiss.get_num_gpus()}
