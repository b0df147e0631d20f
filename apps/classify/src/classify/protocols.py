"""The published protocols by name: which probe, how it trains, on which images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eval_probes import COSLR, IMAGENET_MHEAD, INAT18, LARS, PLACES205, STEPLR, LinearProtocol

Augmentation = Literal["crop", "crop+colour", "shift"]
"""crop: random resized crop, flip; crop+colour: and jitter, PCA lighting; shift: random 224 of the centre 256, flip."""


@dataclass(frozen=True)
class Preset:
    command: Literal["linear", "mhead", "svm"]
    what: str
    protocol: LinearProtocol | None = None
    augmentation: Augmentation = "crop"


PRESETS = {
    "resnet50_linear-8xb32-steplr-100e_in1k": Preset(
        "linear", "MoCo's setting: DeepCluster's and ODC's tables", STEPLR
    ),
    "resnet50_linear-8xb32-coslr-100e_in1k": Preset("linear", "SwAV's setting", COSLR),
    "resnet50_linear-8xb512-coslr-90e_in1k": Preset("linear", "SimSiam's setting, LARS", LARS),
    "resnet50_mhead_linear-8xb32-steplr-90e_in1k": Preset(
        "mhead", "ImageNet, Feature1 to Feature5", IMAGENET_MHEAD, "crop+colour"
    ),
    "resnet50_mhead_8xb32-steplr-28e_places205": Preset("mhead", "Places205", PLACES205, "shift"),
    "resnet50_mhead_8xb32-steplr-84e_inat18": Preset("mhead", "iNaturalist 2018", INAT18, "crop"),
    "svm_voc07": Preset("svm", "VOC2007, 19 costs, three folds"),
}
DEFAULT_PRESET = {
    "linear": "resnet50_linear-8xb32-steplr-100e_in1k",
    "mhead": "resnet50_mhead_linear-8xb32-steplr-90e_in1k",
    "svm": "svm_voc07",
}
TAPS = ("feature1", "feature2", "feature3", "feature4", "feature5", "avgpool")
