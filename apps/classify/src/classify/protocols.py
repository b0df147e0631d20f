"""Taps, and the published protocols of linear classification. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from eval_probes import LinearProtocol

Tap = Literal["feature1", "feature2", "feature3", "feature4", "feature5", "avgpool"]
TAPS: tuple[Tap, ...] = get_args(Tap)

Augmentation = Literal["crop", "crop+colour", "shift"]
"""How training images are augmented.

crop: random resized crop and flip. crop+colour: the same, colour jitter and PCA lighting. shift: a random crop of the
resized centre, and flip.
"""


@dataclass(frozen=True)
class Preset:
    """A protocol by its name in the published model zoos.

    Attributes:
        what: One line for `--help`.
        protocol: Name of the `LinearProtocol` in `eval_probes`.
        augmentation: Of the training images, where features are extracted anew in each epoch.
    """

    what: str
    protocol: str
    augmentation: Augmentation = "crop"


LINEAR = {
    "resnet50_linear-8xb32-steplr-100e_in1k": Preset("MoCo's setting: DeepCluster's and ODC's tables", "STEPLR"),
    "resnet50_linear-8xb32-coslr-100e_in1k": Preset("SwAV's setting", "COSLR"),
    "resnet50_linear-8xb512-coslr-90e_in1k": Preset("SimSiam's setting, LARS", "LARS"),
}
MHEAD = {
    "resnet50_mhead_linear-8xb32-steplr-90e_in1k": Preset(
        "ImageNet, Feature1 to Feature5", "IMAGENET_MHEAD", "crop+colour"
    ),
    "resnet50_mhead_8xb32-steplr-28e_places205": Preset("Places205", "PLACES205", "shift"),
    "resnet50_mhead_8xb32-steplr-84e_inat18": Preset("iNaturalist 2018", "INAT18"),
}


def linear_protocol(preset: Preset, epochs: int | None) -> LinearProtocol:
    """The protocol of a preset. With another number of epochs, the steps of the learning rate move in proportion."""
    import eval_probes

    protocol: LinearProtocol = getattr(eval_probes, preset.protocol)
    if epochs is None:
        return protocol
    scale = epochs / protocol.epochs
    milestones = protocol.milestones and tuple(max(1, round(m * scale)) for m in protocol.milestones)
    return replace(protocol, epochs=epochs, milestones=milestones)
