"""k-means by faiss, behind the same result: the reference's engine, kept as an alternative and as a yardstick."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cluster_memory._ranks import Ranks
from cluster_memory._rows import Frame, Rows

if TYPE_CHECKING:
    from cluster_memory._kmeans import KMeans, KMeansResult


def fit(kmeans: "KMeans", rows: Rows, frame: Frame) -> "KMeansResult":
    """Iterate in faiss (on CPU, x held in memory as float32), then assign, repair and measure as the torch backend."""
    try:
        import faiss
    except ImportError:
        raise ImportError(
            "backend='faiss' needs faiss: pip install 'cluster-memory[faiss]', or backend='torch'"
        ) from None
    from cluster_memory._kmeans import KMeans

    if kmeans.group is not None or kmeans.init == "k-means++":
        raise ValueError("backend='faiss' knows neither group nor init='k-means++': use backend='torch'")
    x = torch.cat([frame.enter(block) for _, block in rows]).cpu().numpy()
    engine = faiss.Kmeans(
        rows.dim,
        kmeans.k,
        niter=max(1, kmeans.n_iters),
        nredo=kmeans.n_init,
        seed=kmeans.seed,
        spherical=frame.cosine,
        max_points_per_centroid=rows.n,
        min_points_per_centroid=1,
    )
    given = frame.enter(kmeans.init.to(rows.device).float()).cpu().numpy() if isinstance(kmeans.init, Tensor) else None
    engine.train(x, init_centroids=given)
    centroids = frame.leave(torch.from_numpy(engine.centroids).to(rows.device).double())
    last = KMeans(kmeans.k, kmeans.metric, n_iters=0, init=centroids, empty=kmeans.empty)
    result = last._lloyd(rows, frame, Ranks(None), torch.Generator())
    # faiss reports sums of cosines there
    history = tuple(rows.n - float(v) if frame.cosine else float(v) / frame.scale**2 for v in engine.obj)
    return type(result)(**(vars(result) | {"inertia_per_iter": history}))
