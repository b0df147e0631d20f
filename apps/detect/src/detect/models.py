"""Our backbones under the names that MMDetection's configs use. A config imports this file by `custom_imports`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmdet.registry import MODELS
from sobel_resnet import FeatureMaps, LastStage, ResNet, Stem, load_backbone
from torch import Tensor, nn


@MODELS.register_module()
class SobelResNet(FeatureMaps):
    """FeatureMaps of sobel-resnet from an architecture. weights: a file of any dialect, read by `init_weights`."""

    def __init__(
        self,
        arch: str,
        sobel: bool = False,
        stem: Stem = "imagenet",
        width: float = 1.0,
        in_channels: int = 3,
        maps: Sequence[str] = ("feature2", "feature3", "feature4", "feature5"),
        output_stride: Literal[8, 16, 32] = 32,
        seed: int = 0,
        weights: str | None = None,
    ) -> None:
        network = ResNet(arch, sobel, stem, width, in_channels=in_channels, seed=seed)
        super().__init__(network, maps, output_stride)
        self.weights = weights

    def init_weights(self) -> None:
        if self.weights is not None:
            saved = load_backbone(self.weights)[0].state_dict()
            self.load_state_dict({name: saved[name] for name in self.state_dict()})


@MODELS.register_module()
class SharedLayer4(nn.Module):
    """layer4 of the same backbone for the RoI head of a C4 detector, and a new batch norm after it.

    Without the norm the RoI head of a self-supervised network trains badly (MMSelfSup's ResLayerExtraNorm)."""

    def __init__(
        self, arch: str, stem: Stem = "imagenet", width: float = 1.0, seed: int = 0, weights: str | None = None
    ) -> None:
        super().__init__()
        stage = LastStage(ResNet(arch, stem=stem, width=width, seed=seed))
        self.layer4, self.norm = stage.layer4, nn.BatchNorm2d(stage.num_features)
        self.weights = weights

    def init_weights(self) -> None:
        if self.weights is not None:
            saved = load_backbone(self.weights)[0].state_dict()
            self.layer4.load_state_dict(
                {name.removeprefix("layer4."): t for name, t in saved.items() if name.startswith("layer4.")}
            )

    def forward(self, regions: Tensor) -> Tensor:
        return self.norm(self.layer4(regions))
