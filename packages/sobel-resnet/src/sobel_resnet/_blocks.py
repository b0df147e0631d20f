"""The two residual blocks of He et al. 2015 (arXiv:1512.03385), with torchvision's key names.

The stride of a bottleneck is on its 3x3 convolution, as in torchvision, mmpretrain and the SwAV code.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ._init import empty_conv


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    kind = _StridedConv if stride > 1 else nn.Conv2d
    return empty_conv(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False, kind=kind)


class _StridedConv(nn.Conv2d):
    """A strided 3x3 convolution that uses stride 1 along a side of one pixel, where the result is the same.

    With a stride there, oneDNN's bfloat16 weight gradient reads out of bounds (torch 2.13): gradients were 1e26 or NaN
    for crops so small that a stage received a single pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        strides = [stride if side > 1 else 1 for stride, side in zip(self.stride, x.shape[-2:], strict=True)]
        return F.conv2d(x, self.weight, None, strides, self.padding, self.dilation)


class _ThinProjection(nn.Conv2d):
    """A strided 1x1 convolution that subsamples its input and then convolves with stride 1, with the same result.

    This avoids oneDNN's strided kernel. Its weight gradient writes past its workspace if the input is channels-last and
    has fewer channels than a vector register holds: depending on the number of threads, the process crashes or the
    gradient is wrong (uxlfoundation/oneDNN#6035, torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x[..., :: self.stride[0], :: self.stride[1]], self.weight)


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and n_in == n_out:
        return None
    kind = _ThinProjection if stride > 1 and n_in < 16 else nn.Conv2d  # the widest register holds 16 floats
    return nn.Sequential(empty_conv(n_in, n_out, 1, stride=stride, bias=False, kind=kind), nn.BatchNorm2d(n_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and -34): (B, n_in, H, W) -> (B, channels, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, n_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(n_in, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(n_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions (ResNet-50 and -101): (B, n_in, H, W) -> (B, 4 channels, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, n_in: int, channels: int, stride: int) -> None:
        super().__init__()
        n_out = channels * self.expansion
        self.conv1 = _conv(n_in, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, n_out, 1)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample = _shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn3
