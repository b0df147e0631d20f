"""Lloyd's iterations by faiss: the reference's engine, kept as an alternative and as a yardstick."""

import numpy as np
import torch
from torch import Tensor

from cluster_memory._rows import Frame, Rows


def iterate(rows: Rows, frame: Frame, centroids: Tensor, n_iters: int) -> tuple[Tensor, tuple[float, ...]]:
    """Centroids (K, D) after n_iters updates from `centroids`, and the inertia before each; on a GPU where x and faiss
    are on one. x is held in memory as float32; no row is left out."""
    try:
        import faiss
    except ImportError:
        raise ImportError(
            "backend='faiss' needs faiss: pip install 'cluster-memory[faiss]', or backend='torch'"
        ) from None
    if n_iters == 0:
        return centroids, ()
    x = torch.cat([frame.enter(block) for _, block in rows]).cpu().numpy()
    engine = faiss.Kmeans(
        rows.dim,
        len(centroids),
        niter=n_iters,
        spherical=frame.cosine,
        gpu=rows.device.type == "cuda" and faiss.get_num_gpus() > 0,
        max_points_per_centroid=rows.n,
        min_points_per_centroid=1,
    )
    engine.train(x, init_centroids=frame.enter(centroids).cpu().numpy())
    # faiss reports sums of cosines there
    history = tuple(rows.n - v if frame.cosine else v / frame.scale**2 for v in np.asarray(engine.obj).tolist())
    return frame.leave(torch.from_numpy(engine.centroids).to(rows.device).double()), history
