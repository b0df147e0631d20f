"""Settings of DeepCluster-v2; the method is in `methods/deepcluster_v2.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from pretrain.settings.projected import ProjectedSettings


class DeepClusterV2Settings(ProjectedSettings):
    """DeepCluster-v2"""

    implementation: ClassVar[str] = "pretrain.methods.deepcluster_v2:DeepClusterV2"

    method: Literal["deepcluster_v2"] = "deepcluster_v2"
    n_heads: PositiveInt = 3
    """Clusterings, each with its own loss; they take turns with the crops that give clusters."""
    kmeans_iters: PositiveInt = 10
    """Iterations of spherical k-means, once per epoch for each clustering."""
    warm_start: bool = False
    """Start k-means from the centroids of the previous epoch, so that clusters keep their numbers."""
    memory_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the memory of embeddings; float16 halves its bytes (docs/scaling.md)."""
