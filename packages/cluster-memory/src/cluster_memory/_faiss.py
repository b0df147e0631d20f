"""Lloyd's iterations by faiss, the engine of the reference implementations: an alternative and a yardstick."""

import importlib
import importlib.metadata
import logging
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cluster_memory import _device
from cluster_memory._assign import LabelSums
from cluster_memory._kmeans_repair import split_clusters
from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows

_LOG = logging.getLogger(__name__)
Engine = Literal["torch", "faiss-cpu", "faiss-gpu"]


class Iterated(NamedTuple):
    """Centroids (K, D) float32 in the units of the data, the inertia before each update, and the faiss that ran."""

    centroids: Tensor
    history: tuple[float, ...]
    engine: Engine


def iterate(rows: Rows, frame: Frame, centroids: Tensor, n_iters: int) -> Iterated:
    """Updates centroids (K, D) n_iters times, using all rows.

    If rows are on a GPU and faiss-gpu is installed, they stay there and are read in blocks. Otherwise all rows are held
    in main memory as float32; rows from a GPU are copied there, with a warning in the log."""
    faiss = _imported()
    gpu = _device.on_gpu(rows.device) and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if n_iters == 0:
        return Iterated(centroids, (), "faiss-gpu" if gpu else "faiss-cpu")
    if gpu:
        return _on_gpu(faiss, rows, frame, centroids, n_iters)
    if _device.on_gpu(rows.device):
        _LOG.warning(
            "faiss sees no GPU: k-means copies its %d rows to main memory and runs on the CPU; "
            "install cluster-memory[faiss-gpu] in place of [faiss], or use backend='torch'",
            rows.n,
        )
    x = torch.cat([frame.enter(block) for _, block in rows]).cpu().numpy()
    engine = faiss.Kmeans(
        rows.dim,
        len(centroids),
        niter=n_iters,
        spherical=frame.cosine,
        max_points_per_centroid=rows.n,
        min_points_per_centroid=1,
    )
    engine.train(x, init_centroids=frame.enter(centroids).cpu().numpy())
    # for spherical k-means faiss reports sums of cosines
    history = tuple(rows.n - v if frame.cosine else v / frame.scale**2 for v in np.asarray(engine.obj).tolist())
    found = frame.leave(torch.from_numpy(engine.centroids).to(rows.device).double())
    return Iterated(found, history, "faiss-cpu")


def _on_gpu(faiss: Any, rows: Rows, frame: Frame, centroids: Tensor, n_iters: int) -> Iterated:
    """faiss finds the nearest centroids, reading the torch tensors directly; means and empty clusters are ours."""
    # with this import faiss.knn_gpu accepts tensors and runs on torch's stream
    importlib.import_module("faiss.contrib.torch_utils")
    resources, k = faiss.StandardGpuResources(), len(centroids)
    metric = faiss.METRIC_INNER_PRODUCT if frame.cosine else faiss.METRIC_L2
    labels = torch.empty(rows.n, dtype=torch.int64, device=rows.device)
    distance = torch.empty(rows.n, device=rows.device)
    history = []
    for _ in range(n_iters):
        framed = frame.enter(centroids).contiguous()
        sums = LabelSums(framed)
        for part, block in rows:
            entered = frame.enter(block).contiguous()
            with torch.cuda.device_of(entered):
                near, index = faiss.knn_gpu(resources, entered, framed, 1, metric=metric)
            labels[part] = index[:, 0]
            distance[part] = (1 - near[:, 0] if frame.cosine else near[:, 0]).clamp_min(0)
            sums.add(labels[part], entered)
        history.append(float(distance.sum(dtype=torch.float64)))
        counts = torch.bincount(labels, minlength=k)
        means = torch.where((counts > 0)[:, None], sums.total() / counts.clamp_min(1)[:, None], framed.double())
        if frame.cosine:
            means = torch.nn.functional.normalize(means, dim=1)
        split_clusters(means, counts, labels, distance, rows, frame, Ranks(None))  # faiss also splits inside its loop
        centroids = frame.leave(means)
    return Iterated(centroids, tuple(value / frame.scale**2 for value in history), "faiss-gpu")


def _imported() -> Any:
    """The module faiss. Raises ImportError if it is missing, or if two distributions provide it."""
    both = [name for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12") if _is_installed(name)]
    if len(both) > 1:
        raise ImportError(f"{' and '.join(both)} both install the package faiss: uninstall all but one of them")
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"backend='faiss' cannot import faiss ({error}): pip install 'cluster-memory[faiss]' "
            "('cluster-memory[faiss-gpu]' for GPUs), or use backend='torch'"
        ) from None
    return faiss


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
