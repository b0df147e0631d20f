"""Settings of SwAV; the method is in `methods/swav.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pretrain.settings.projected import ProjectedSettings


class SwavSettings(ProjectedSettings):
    """SwAV"""

    implementation: ClassVar[str] = "pretrain.methods.swav:Swav"

    method: Literal["swav"] = "swav"
    epsilon: float = Field(0.05, ge=1e-3, le=1)
    """Entropy weight of Sinkhorn-Knopp, in units of the scores; smaller makes harder codes."""
    epsilon_of_spread: float | None = Field(None, gt=0, le=10)
    """Most that epsilon may be, in units of the spread of the scores of a batch. It keeps codes hard while embeddings
    of a small set differ little; --epsilon alone counts if not given."""
    sinkhorn_iters: PositiveInt = 3
    """Iterations of Sinkhorn-Knopp."""
    freeze_prototypes_steps: int | None = Field(None, ge=0)
    """Steps before the prototypes begin to learn; one epoch if not given."""
    k_of_batch: bool = False
    """Without --k: one prototype for each image of a batch, the most that a batch without a queue can use equally."""
    queue: int | None = Field(None, ge=0)
    """Embeddings of earlier steps that share the balance of the codes, a multiple of the batch; 0 = none. If not
    given, none where a batch has an image for each prototype, else 1.28 embeddings for each prototype."""
    queue_from_epoch: int = Field(15, ge=0)
    """Epoch (the first is 0) from which the queue is filled; it is used once it is full."""
