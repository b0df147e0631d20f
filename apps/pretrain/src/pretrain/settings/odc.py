"""Settings of ODC; the method is in `methods/odc.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pretrain.settings.sections import RunSettings
from pretrain.settings.values import Fraction


class OdcSettings(RunSettings):
    """Online Deep Clustering"""

    implementation: ClassVar[str] = "pretrain.methods.odc:Odc"

    method: Literal["odc"] = "odc"
    memory_momentum: Fraction = 0.5
    """Weight of the new feature in the samples memory."""
    centroid_every: PositiveInt = 10
    """Steps between updates of all centroids."""
    min_cluster: int = Field(20, ge=1)
    """Smallest size of a cluster, at most half the mean; smaller ones are dissolved, and the largest one is split."""
    head_lr: float = Field(1.0, gt=0)
    """Factor on the learning rate of the head, which has no momentum."""
    reweight_power: float = Field(0.5, ge=0)
    """Loss weight of a cluster = size^(-power)."""
    neck_hidden: PositiveInt = 512
    """Width of the neck's hidden layer."""
    neck_dim: PositiveInt = 256
    """Dimension of the features that are clustered."""
    neck_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout in the neck."""
    neck_bn: bool = False
    """Batch norm instead of the neck's last ReLU. Embeddings of an untrained network, which differ little, are spread
    out."""
    memory_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the samples memory; float16 halves its bytes (docs/scaling.md)."""
    shard_memory: bool = False
    """Split the samples memory over the ranks, instead of one copy on each; for tens of millions of images."""
