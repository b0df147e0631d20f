"""Settings of DeepCluster; the method is in `methods/deepcluster.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pretrain.settings.sections import RunSettings


class DeepClusterSettings(RunSettings):
    """DeepCluster"""

    implementation: ClassVar[str] = "pretrain.methods.deepcluster:DeepCluster"

    method: Literal["deepcluster"] = "deepcluster"
    pca_dim: int = Field(256, ge=0)
    """Whitened principal components that are clustered, at most as many as there are features; 0 = no PCA."""
    kmeans_iters: PositiveInt = 20
    """Iterations of k-means, once per epoch."""
    balanced: bool = True
    """Sample the images of an epoch uniformly over the clusters."""
    reweight_power: float = Field(0.0, ge=0)
    """Loss weight of a cluster = size^(-power); the alternative to --balanced, with 0.5 in the papers."""
    head_lr: float = Field(1.0, gt=0)
    """Factor on the learning rate of the head. The head has no momentum and is re-initialised each epoch."""
