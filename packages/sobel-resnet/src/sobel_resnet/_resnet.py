"""ResNet trunks: crops in, pooled features or stage maps out. B images, D = num_features."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._blocks import BasicBlock, Bottleneck
from ._init import cpu_generator, empty_conv, kaiming_normal_fan_out_
from ._sobel import SobelFilter

Stem = Literal["imagenet", "cifar"]

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
    """What `ResNet` and `FeatureMaps` share: sobel, conv1, bn1, maxpool, layer1 ... layer{depth}, run in a row."""

    sobel: SobelFilter | None
    conv1: nn.Conv2d
    bn1: nn.Module
    maxpool: nn.Module
    in_channels: int
    depth: int

    def _stem(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images must be (B, {self.in_channels}, H, W), got {tuple(images.shape)}")
        x = images if self.sobel is None else self.sobel(images)
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Maps for probing by depth: feature1 = stem before max-pool, feature2 to feature5 = layer1 to layer4.

        images: (B, C, H, W); returns unpooled (B, channels, h, w) maps; for ResNet-50 at 224 pixels 64x112x112,
        256x56x56, 512x28x28, 1024x14x14, 2048x7x7 (the taps of Goyal et al. 2019, arXiv:1905.01235)."""
        maps = {"feature1": self._stem(images)}
        x = self.maxpool(maps["feature1"])
        for i in range(1, self.depth + 1):
            maps[f"feature{i + 1}"] = x = getattr(self, f"layer{i}")(x)
        return maps


class ResNet(Stages):
    """A ResNet without classifier whose state_dict keys are torchvision's (He et al. 2015, arXiv:1512.03385).

    arch: "resnet18", "resnet34", "resnet50" or "resnet101". sobel: put a SobelFilter in front; conv1 then takes 2
    channels. stem: "imagenet" (7x7 stride 2, max-pool) or "cifar" (3x3 stride 1, no pool). width multiplies every
    channel count (SwAV's RN50w2 is width=2). zero_init_residual: last BN weight of each block starts at 0.
    in_channels: channels of the images. Convolutions start Kaiming normal, fan_out, from a generator seeded by `seed`.
    Raises ValueError for an unknown arch or stem, or a width that leaves no channel."""

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

    def forward(self, crops: Tensor | Sequence[Tensor]) -> Tensor:
        """Pooled features: (B, C, H, W) -> (B, D); a list of V such crops -> (sum of B, D), in the order given.

        Consecutive crops of one resolution are run as one batch, as in the SwAV code, so BN sees them together.
        Raises ValueError if a crop has another rank or number of channels, or the list is empty."""
        if isinstance(crops, Tensor):
            x = self.maxpool(self._stem(crops))
            return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        if not crops:
            raise ValueError("crops is an empty list: pass at least one (B, C, H, W) tensor")
        runs = [list(run) for _, run in groupby(crops, key=lambda crop: crop.shape[-2:])]
        return torch.cat([self(torch.cat(run)) for run in runs])


def architecture_of(backbone: ResNet) -> dict[str, Any]:
    """What rebuilds an empty network: arch, sobel, stem, width, in_channels, so that `ResNet(**architecture_of(b))`
    takes b's state_dict. Plain strings, numbers and booleans, ready for JSON."""
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
    """ResNet-18, 512 * width features; arguments as in `ResNet`."""
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
    """ResNet-34, 512 * width features; arguments as in `ResNet`."""
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
    """ResNet-50, 2048 * width features; arguments as in `ResNet`."""
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
    """ResNet-101, 2048 * width features; arguments as in `ResNet`."""
    return ResNet("resnet101", sobel, stem, width, zero_init_residual, in_channels, seed=seed)
