"""Registers our backbones with MMDetection. The configs import this module through `custom_imports`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmdet.registry import MODELS
from sobel_resnet import FeatureMaps, LastStage, ResNet, Stem, load_backbone
from torch import Tensor, nn


@MODELS.register_module()
class SobelResNet(FeatureMaps):
    """Feature maps of a backbone.

    Args:
        arch: `resnet18` ... `resnet101`; see `sobel_resnet.ResNet` for this and the other parts of the architecture.
        sobel: Whether a Sobel filter comes first.
        stem: `imagenet` or `cifar`.
        width: Factor on the number of channels.
        in_channels: Channels of the images.
        maps: Stages whose maps are returned.
        output_stride: Largest stride; later stages are dilated instead.
        seed: Seed of the random weights.
        weights: Backbone file that `init_weights` reads.
    """

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
    """layer4 of the backbone as part of a C4 detector's RoI head, followed by a new batch norm.

    Without this norm the RoI head of a self-supervised network trains badly (MMSelfSup's ResLayerExtraNorm).

    Args:
        arch: Architecture of the backbone, as the following two.
        stem: `imagenet` or `cifar`.
        width: Factor on the number of channels.
        seed: Seed of the random weights.
        weights: Backbone file that `init_weights` reads.
    """

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
