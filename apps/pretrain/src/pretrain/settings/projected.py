"""Settings that DeepCluster-v2 and SwAV share: those of a projection head and of crops that give codes."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from pretrain.settings.sections import RunSettings
from pretrain.settings.values import parse_crops


class ProjectedSettings(RunSettings):
    """projection head"""

    crops_for_codes: PositiveInt = 2
    """The first so many crops of an image give its clusters or codes; all crops predict them."""
    temperature: float = Field(0.1, gt=0)
    """Temperature of the softmax over clusters or prototypes."""
    hidden: PositiveInt = 2048
    """Width of the projection head's hidden layer."""
    dim: PositiveInt = 128
    """Dimension of the embeddings."""

    @model_validator(mode="after")
    def _enough_crops(self) -> Self:
        n_crops = sum(parse_crops(text).n_crops for text in self.crops)
        if n_crops < max(2, self.crops_for_codes):
            raise ValueError(
                f"--crops {' '.join(self.crops)} gives {n_crops} crop(s) of an image, and --crops-for-codes "
                f"{self.crops_for_codes} needs at least {max(2, self.crops_for_codes)}, such as --crops 2x224@0.14-1"
            )
        return self
