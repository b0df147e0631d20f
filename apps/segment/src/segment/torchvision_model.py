"""A fully convolutional network (Long et al. 2015, arXiv:1411.4038) with the published heads; loss and prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sobel_resnet import FeatureMaps, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from segment.torchvision_data import IGNORE, Sizes, resize

AUXILIARY_WEIGHT = 0.4


class FCN(nn.Module):
    """FCN on a backbone with output stride 8.

    Images (B, 3, H, W) give logits (B, n_classes, H / 8, W / 8). In training mode the result is a pair: logits of the
    decode head on feature5, and of the auxiliary head on feature4.

    Args:
        backbone: The backbone to fine-tune.
        n_classes: Number of classes.
        align_corners: How logits are resized.
        seed: Seed of the heads.
    """

    def __init__(self, backbone: ResNet, n_classes: int, *, align_corners: bool, seed: int) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = FeatureMaps(backbone, ("feature4", "feature5"), output_stride=8)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torch's layers draw from the global generator
            self.auxiliary = Head(self.backbone.channels[0], n_classes, n_convs=1, concat=False)
            self.decode = Head(self.backbone.channels[1], n_classes, n_convs=2, concat=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        maps = self.backbone(images)
        if not self.training:
            logits: Tensor = self.decode(maps[1])
            return logits
        return self.decode(maps[1]), self.auxiliary(maps[0])


class Head(nn.Module):
    """Segmentation head: (B, n_in, h, w) -> (B, n_classes, h, w).

    3x3 convolutions to a quarter of the channels, then with `concat` one more on input and result together, then
    dropout of whole channels and a 1x1 convolution.
    """

    def __init__(self, n_in: int, n_classes: int, *, n_convs: int, concat: bool) -> None:
        super().__init__()
        n = n_in // 4
        self.convs = nn.Sequential(*(conv_norm(n_in if k == 0 else n, n) for k in range(n_convs)))
        self.mix = conv_norm(n_in + n, n) if concat else None
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(n, n_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, maps: Tensor) -> Tensor:
        features = self.convs(maps)
        if self.mix is not None:
            features = self.mix(torch.cat([maps, features], 1))
        logits: Tensor = self.classify(self.dropout(features))
        return logits


def conv_norm(n_in: int, n_out: int) -> nn.Sequential:
    """3x3 convolution, batch norm and ReLU."""
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


def fcn_loss(logits: Tensor, auxiliary: Tensor, labels: Tensor, *, align_corners: bool) -> Tensor:
    """Cross-entropy of both heads at the size of labels (B, H, W); the auxiliary head has weight 0.4.

    The sum is divided by the number of all pixels, including ignored ones, as in MMSegmentation.
    """
    loss = labels.new_zeros((), dtype=torch.float32)
    for weight, one in ((1.0, logits), (AUXILIARY_WEIGHT, auxiliary)):
        one = F.interpolate(one.float(), labels.shape[-2:], mode="bilinear", align_corners=align_corners)
        loss = loss + weight * F.cross_entropy(one, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()
    return loss


def predict(model: FCN, image: Tensor, size: Sequence[int], sizes: Sizes) -> Tensor:
    """Predict classes, int64 (H, W), of one image (3, h, w).

    Args:
        model: Network in evaluation mode.
        image: Normalised image.
        size: (H, W) of the result.
        sizes: With a window, logits are averaged over overlapping windows; else the whole image is used at once.
    """
    corners = model.align_corners
    height, width = image.shape[-2:]
    if sizes.window is None or sizes.apart is None:
        logits = resize(model(image[None])[0], height, width, align_corners=corners)
        return resize(logits, size[0], size[1], align_corners=corners).argmax(0)
    total: Tensor | float = 0.0
    times = image.new_zeros(height, width)
    for rows in windows(height, sizes.window, sizes.apart):
        for columns in windows(width, sizes.window, sizes.apart):
            part = image[:, rows, columns]
            logits = resize(model(part[None])[0], *part.shape[-2:], align_corners=corners)
            if not isinstance(total, Tensor):
                total = image.new_zeros(len(logits), height, width)
            total[:, rows, columns] += logits
            times[rows, columns] += 1
    return resize(total / times, size[0], size[1], align_corners=corners).argmax(0)


def windows(length: int, side: int, apart: int) -> list[slice]:
    """Slices of the windows along one axis, `apart` pixels apart. The last one is moved back into the image."""
    n = max(length - side + apart - 1, 0) // apart + 1
    ends = [min(k * apart + side, length) for k in range(n)]
    return [slice(max(end - side, 0), end) for end in ends]
