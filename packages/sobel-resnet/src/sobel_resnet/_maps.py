"""A backbone as dense predictors want it: images in, a tuple of maps out. For detectors and segmentation heads."""

import copy
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ._resnet import LAYOUTS, ResNet, Stages

_NAMES = tuple(f"feature{i}" for i in range(1, 6))


class FeatureMaps(Stages):
    """A copy of a backbone that returns maps: images (B, C, H, W) -> tuple of (B, channels[i], H/strides[i], W/...).

    maps: names as in `ResNet.stages`; the tuple is in the order asked. Stages after the deepest one are left out, so
    that every parameter gets a gradient. state_dict keys are the backbone's (torchvision's). A Sobel filter stays in
    front. output_stride: the largest stride allowed; a stage that would pass it is dilated instead (Chen et al. 2017,
    arXiv:1706.05587): layer4 at 16, layer3 and layer4 at 8, none after a CIFAR stem, whose last stride is 8. The
    convolution that had the stride keeps the dilation before it and all later ones double it, as in torchvision and
    timm, so that pixels at the old stride hold what the backbone was trained to compute.
    Raises ValueError for an unknown map, no map, or another output_stride."""

    def __init__(
        self,
        backbone: ResNet,
        maps: Sequence[str] = ("feature2", "feature3", "feature4", "feature5"),
        output_stride: Literal[8, 16, 32] = 32,
    ) -> None:
        super().__init__()
        if not maps or any(name not in _NAMES for name in maps):
            raise ValueError(f"maps must be a tuple of some of {', '.join(_NAMES)}, got {maps!r}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        self.maps = tuple(maps)
        self.in_channels = backbone.in_channels
        self.depth = max(_NAMES.index(name) for name in maps)
        for name in ("sobel", "conv1", "bn1", "maxpool", *(f"layer{i}" for i in range(1, self.depth + 1))):
            setattr(self, name, copy.deepcopy(getattr(backbone, name)))

        stem_stride, pool_stride = (2, 2) if backbone.stem == "imagenet" else (1, 1)
        strides, dilation = [stem_stride, stem_stride * pool_stride], 1
        for i in range(2, self.depth + 1):
            if strides[-1] * 2 > output_stride:
                _dilate(getattr(self, f"layer{i}"), dilation)
                dilation *= 2
                strides.append(strides[-1])
            else:
                strides.append(strides[-1] * 2)
        stem, expansion = backbone.conv1.out_channels, LAYOUTS[backbone.arch][0].expansion
        channels = (stem, *(stem * expansion * 2**i for i in range(4)))
        self.channels = tuple(channels[_NAMES.index(name)] for name in maps)
        self.strides = tuple(strides[_NAMES.index(name)] for name in maps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.stages(images)
        return tuple(maps[name] for name in self.maps)


class LastStage(nn.Module):
    """A copy of a backbone's layer4 alone, which C4 detectors (He et al. 2015, arXiv:1512.03385, appendix A) run on
    regions of feature4: (B, in_channels, h, w) -> (B, num_features, h/2, w/2). state_dict keys are `layer4.*`."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.layer4 = copy.deepcopy(backbone.layer4)
        self.num_features = backbone.num_features
        self.in_channels = backbone.num_features // 2

    def forward(self, maps: Tensor) -> Tensor:
        return self.layer4(maps)


def _dilate(stage: nn.Module, dilation: int) -> None:
    """Turn a stage's stride 2 into dilation, in place; dilation: what the stage before it ended with."""
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d):
            reach = dilation if conv.stride == (2, 2) else 2 * dilation
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (reach, reach)
