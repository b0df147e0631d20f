"""Feature maps of a backbone for detectors and segmentation heads."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from ._resnet import LAYOUTS, ResNet, Stages
from ._tensors import as_tensor

if TYPE_CHECKING:
    import numpy as np

_NAMES = tuple(f"feature{i}" for i in range(1, 6))


class FeatureMaps(Stages):
    """A copy of a backbone that returns feature maps instead of pooled features.

    Stages after the deepest requested map are left out, so every parameter gets a gradient. The keys of `state_dict`
    are the backbone's (torchvision's), and a Sobel filter stays in front.

    A stage whose stride would exceed `output_stride` is dilated instead (Chen et al. 2017, arXiv:1706.05587): layer4 at
    16, layer3 and layer4 at 8. After a CIFAR stem, whose last stride is 8, no stage is. As in torchvision and timm, the
    convolution that loses its stride keeps the dilation of the stage before, and all later ones double it. So the
    dilated map, sampled at the old stride, equals the map the backbone was trained to compute.

    Args:
        backbone: The network to copy.
        maps: Names of maps as in `ResNet.stages`, in the order in which they are to be returned.
        output_stride: Largest stride of a map relative to the image.

    Attributes:
        channels: Number of channels of each map, in the order of `maps`.
        strides: Stride of each map relative to the image, in the order of `maps`.

    Raises:
        ValueError: If `maps` is empty or holds an unknown name, or `output_stride` is not 8, 16 or 32.
    """

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

    def forward(self, images: "Tensor | np.ndarray") -> tuple[Tensor, ...]:
        """Compute the requested maps.

        Args:
            images: (B, C, H, W). A NumPy array counts as a CPU tensor.

        Returns:
            One map per name in `maps`: (B, channels[i], H / strides[i], W / strides[i]).

        Raises:
            ValueError: If `images` has another number of axes or channels.
        """
        maps = self.stages(images)
        return tuple(maps[name] for name in self.maps)


class LastStage(nn.Module):
    """A copy of a backbone's layer4 alone, as C4 detectors need it (He et al. 2015, arXiv:1512.03385, appendix A).

    Such detectors run layer4 on regions cropped from feature4. The keys of `state_dict` are `layer4.*`.

    Args:
        backbone: The network to copy layer4 from.

    Attributes:
        in_channels: Number of channels of feature4.
        num_features: Number of channels of the output.
    """

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.layer4 = copy.deepcopy(backbone.layer4)
        self.num_features = backbone.num_features
        self.in_channels = backbone.num_features // 2

    def forward(self, maps: "Tensor | np.ndarray") -> Tensor:
        """Run layer4 on (regions of) feature4.

        Args:
            maps: (B, in_channels, h, w). A NumPy array counts as a CPU tensor.

        Returns:
            Maps (B, num_features, h / 2, w / 2).
        """
        return self.layer4(as_tensor(maps))


def _dilate(stage: nn.Module, dilation: int) -> None:
    """Replace a stage's stride 2 by dilation, in place; `dilation` is the final dilation of the stage before."""
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d):
            reach = dilation if conv.stride == (2, 2) else 2 * dilation
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (reach, reach)
