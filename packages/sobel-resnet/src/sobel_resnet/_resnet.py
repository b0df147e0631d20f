"""ResNet backbones: crops in, pooled features or stage maps out. B images, D = num_features."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._blocks import BasicBlock, Bottleneck
from ._init import cpu_generator, empty_conv, kaiming_normal_fan_out_
from ._sobel import SobelFilter
from ._tensors import as_tensor

if TYPE_CHECKING:
    import numpy as np

Stem = Literal["imagenet", "cifar"]
"""Kind of stem: a 7x7 convolution of stride 2 with max-pooling, or a 3x3 convolution of stride 1 without."""

LAYOUTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


def _stage(
    block: type[BasicBlock] | type[Bottleneck], n_in: int, channels: int, n_blocks: int, stride: int
) -> nn.Sequential:
    rest = [block(channels * block.expansion, channels, stride=1) for _ in range(n_blocks - 1)]
    return nn.Sequential(block(n_in, channels, stride), *rest)


class Stages(nn.Module):
    """Base of `ResNet` and `FeatureMaps`: runs sobel, conv1, bn1, maxpool and layer1 to layer{depth} in sequence."""

    sobel: SobelFilter | None
    conv1: nn.Conv2d
    bn1: nn.Module
    maxpool: nn.Module
    in_channels: int
    depth: int

    def _stem(self, images: "Tensor | np.ndarray") -> Tensor:
        images = as_tensor(images)
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images must be (B, {self.in_channels}, H, W), got {tuple(images.shape)}")
        x = images if self.sobel is None else self.sobel(images)
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def stages(self, images: "Tensor | np.ndarray") -> dict[str, Tensor]:
        """Compute the unpooled maps of all stages, the taps of Goyal et al. 2019 (arXiv:1905.01235).

        Args:
            images: (B, C, H, W). A NumPy array counts as a CPU tensor.

        Returns:
            Maps (B, channels, h, w) by name: feature1 is the stem before max-pooling, feature2 to feature5 are layer1
            to layer4. For ResNet-50 at 224 pixels: 64x112x112, 256x56x56, 512x28x28, 1024x14x14, 2048x7x7.

        Raises:
            ValueError: If `images` has another number of axes or channels.
        """
        maps = {"feature1": self._stem(images)}
        x = self.maxpool(maps["feature1"])
        for i in range(1, self.depth + 1):
            maps[f"feature{i + 1}"] = x = getattr(self, f"layer{i}")(x)
        return maps


class ResNet(Stages):
    """A ResNet without classifier, with torchvision's key names in `state_dict` (He et al. 2015, arXiv:1512.03385).

    Args:
        arch: "resnet18", "resnet34", "resnet50" or "resnet101".
        sobel: Whether a `SobelFilter` is put in front; conv1 then takes two channels.
        stem: "imagenet" (7x7 convolution of stride 2, max-pooling) or "cifar" (3x3 of stride 1, no pooling).
        width: Factor of every channel count; SwAV's RN50w2 has width 2.
        zero_init_residual: Whether the weight of the last BatchNorm in each block starts at 0.
        in_channels: Number of channels of the images.
        seed: Seed of the weights. Convolutions start Kaiming normal, in fan_out mode.

    Attributes:
        num_features: Number of pooled features D.

    Raises:
        ValueError: If `arch` or `stem` is unknown, or `width` leaves no channel.
    """

    depth = 4

    def __init__(
        self,
        arch: str,
        sobel: bool = False,
        stem: Stem = "imagenet",
        width: float = 1.0,
        zero_init_residual: bool = False,
        in_channels: int = 3,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if arch not in LAYOUTS:
            raise ValueError(f"arch must be one of {sorted(LAYOUTS)}, got {arch!r}")
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem must be 'imagenet' or 'cifar', got {stem!r}")
        channels = round(64 * width)
        if channels < 1:
            raise ValueError(f"width must leave at least one channel (64 * width >= 1), got {width}")
        self.arch, self.stem, self.width, self.in_channels = arch, stem, width, in_channels
        block, n_blocks = LAYOUTS[arch]

        self.sobel = SobelFilter() if sobel else None
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        n_in = 2 if sobel else in_channels
        self.conv1 = empty_conv(n_in, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        n, e = n_blocks, block.expansion
        self.layer1 = _stage(block, channels, channels, n[0], stride=1)
        self.layer2 = _stage(block, channels * e, channels * 2, n[1], stride=2)
        self.layer3 = _stage(block, channels * 2 * e, channels * 4, n[2], stride=2)
        self.layer4 = _stage(block, channels * 4 * e, channels * 8, n[3], stride=2)
        self.num_features = channels * 8 * e
        self._initialise(zero_init_residual, seed)

    def _initialise(self, zero_init_residual: bool, seed: int) -> None:
        generator = cpu_generator(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_normal_fan_out_(module.weight, generator)
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_bn.weight)

    def forward(self, crops: "Tensor | np.ndarray | Sequence[Tensor | np.ndarray]") -> Tensor:
        """Compute pooled features.

        Consecutive crops of the same resolution run as one batch, as in the SwAV code: BatchNorm sees them together.

        Args:
            crops: One batch (B, C, H, W), or a list of such batches. A NumPy array counts as a CPU tensor.

        Returns:
            Features (B, D); for a list, those of all batches concatenated in their order.

        Raises:
            ValueError: If a batch has another number of axes or channels, or the list is empty.
        """
        if not isinstance(crops, Sequence):
            x = self.maxpool(self._stem(crops))
            return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        if not crops:
            raise ValueError("crops is an empty list: pass at least one (B, C, H, W) tensor")
        tensors = [as_tensor(crop) for crop in crops]
        runs = [list(run) for _, run in groupby(tensors, key=lambda crop: crop.shape[-2:])]
        return torch.cat([self(torch.cat(run)) for run in runs])


def architecture_of(backbone: ResNet) -> dict[str, Any]:
    """Return the arguments that rebuild a network of the same architecture.

    Args:
        backbone: The network to describe.

    Returns:
        arch, sobel, stem, width and in_channels, as plain values fit for JSON. `ResNet(**architecture_of(backbone))`
            accepts the `state_dict` of `backbone`.
    """
    return {
        "arch": backbone.arch,
        "sobel": backbone.sobel is not None,
        "stem": backbone.stem,
        "width": backbone.width,
        "in_channels": backbone.in_channels,
    }


def resnet18(
    sobel: bool = False,
    stem: Stem = "imagenet",
    width: float = 1.0,
    zero_init_residual: bool = False,
    in_channels: int = 3,
    *,
    seed: int = 0,
) -> ResNet:
    """Build a ResNet-18 with 512 * width features.

    The arguments are those of [`ResNet`][sobel_resnet.ResNet] without `arch`.
    """
    return ResNet("resnet18", sobel, stem, width, zero_init_residual, in_channels, seed=seed)


def resnet34(
    sobel: bool = False,
    stem: Stem = "imagenet",
    width: float = 1.0,
    zero_init_residual: bool = False,
    in_channels: int = 3,
    *,
    seed: int = 0,
) -> ResNet:
    """Build a ResNet-34 with 512 * width features.

    The arguments are those of [`ResNet`][sobel_resnet.ResNet] without `arch`.
    """
    return ResNet("resnet34", sobel, stem, width, zero_init_residual, in_channels, seed=seed)


def resnet50(
    sobel: bool = False,
    stem: Stem = "imagenet",
    width: float = 1.0,
    zero_init_residual: bool = False,
    in_channels: int = 3,
    *,
    seed: int = 0,
) -> ResNet:
    """Build a ResNet-50 with 2048 * width features.

    The arguments are those of [`ResNet`][sobel_resnet.ResNet] without `arch`.
    """
    return ResNet("resnet50", sobel, stem, width, zero_init_residual, in_channels, seed=seed)


def resnet101(
    sobel: bool = False,
    stem: Stem = "imagenet",
    width: float = 1.0,
    zero_init_residual: bool = False,
    in_channels: int = 3,
    *,
    seed: int = 0,
) -> ResNet:
    """Build a ResNet-101 with 2048 * width features.

    The arguments are those of [`ResNet`][sobel_resnet.ResNet] without `arch`.
    """
    return ResNet("resnet101", sobel, stem, width, zero_init_residual, in_channels, seed=seed)
