"""Mask R-CNN with a feature pyramid, from torchvision's parts, with the sizes of the published protocol."""

from __future__ import annotations

from collections import OrderedDict

import torch
from sobel_resnet import FeatureMaps, ResNet
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

SHORT_SIDES = tuple(range(640, 801, 32))  # training draws one per image; scoring uses the last
LONG_SIDE = 1333
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVELS = ["0", "1", "2", "3"]
DIFFERENCES = (
    "torchvision's Mask R-CNN: smooth L1 (beta 1/9) instead of L1 for the boxes of RPN and RoI head",
    "RoIAlign without the shift by half a pixel",
    "anchors rounded to whole pixels",
    "pyramid and heads initialised as torchvision does",
)


class Pyramid(nn.Module):
    """Feature pyramid of a backbone.

    Maps "0" to "3" have the backbone's strides, "pool" has twice the last one; all have `out_channels` channels.
    """

    def __init__(self, backbone: ResNet, out_channels: int) -> None:
        super().__init__()
        self.body, self.out_channels = FeatureMaps(backbone), out_channels
        self.strides = (*self.body.strides, 2 * self.body.strides[-1])
        self.fpn = FeaturePyramidNetwork(
            list(self.body.channels), out_channels, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.fpn(OrderedDict(zip(LEVELS, self.body(images), strict=True)))
        return maps


def build_detector(
    backbone: ResNet,
    n_classes: int,
    *,
    seed: int,
    scale: float = 1.0,
    channels: int = 256,
    samples: int = 512,
    proposals: int = 1000,
) -> MaskRCNN:
    """Build the detector. Nothing is frozen; batch norms are not synchronised yet.

    Args:
        backbone: The backbone to fine-tune.
        n_classes: Number of classes without the background.
        seed: Seed of all new layers.
        scale: Factor on image sizes.
        channels: Channels of pyramid and heads.
        samples: Regions per image that the RoI head is trained on; a quarter of them are objects.
        proposals: Proposals per image that the RPN keeps.
    """
    norm, n_outputs = nn.BatchNorm2d, n_classes + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchvision's layers draw from the global generator
        pyramid = Pyramid(backbone, channels)
        model = MaskRCNN(
            pyramid,
            min_size=tuple(round(side * scale) for side in SHORT_SIDES),
            max_size=round(LONG_SIDE * scale),
            image_mean=MEAN,
            image_std=STD,
            size_divisible=pyramid.strides[-1],  # else torchvision derives wrong anchor strides from map sizes
            rpn_anchor_generator=AnchorGenerator(
                tuple((8 * stride,) for stride in pyramid.strides), ((0.5, 1.0, 2.0),) * len(pyramid.strides)
            ),
            rpn_pre_nms_top_n_train=2 * proposals,
            rpn_pre_nms_top_n_test=proposals,
            rpn_post_nms_top_n_train=proposals,
            rpn_post_nms_top_n_test=proposals,
            box_batch_size_per_image=samples,
            box_positive_fraction=0.25,
            box_roi_pool=_pool(pyramid, 7),
            box_head=FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], norm_layer=norm),
            box_predictor=FastRCNNPredictor(1024, n_outputs),
            mask_roi_pool=_pool(pyramid, 14),
            mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=norm),
            mask_predictor=MaskRCNNPredictor(channels, channels, n_outputs),
        )
    # as in MMDetection, an object without a proposal of IoU 0.5 is assigned to its best proposal
    model.roi_heads.proposal_matcher.allow_low_quality_matches = True
    return model


def _pool(pyramid: Pyramid, size: int) -> MultiScaleRoIAlign:
    """RoIAlign that pools regions of 56 pixels at stride 4, for any strides (FPN, arXiv:1612.03144, eq. 1)."""
    pool = MultiScaleRoIAlign(LEVELS, size, sampling_ratio=0)
    strides = pyramid.strides[: len(LEVELS)]
    # torchvision would derive the scales from the unpadded sizes of the first images, which is wrong for small images
    pool.scales = [1 / stride for stride in strides]
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    pool.map_levels = LevelMapper(first, last, canonical_scale=224, canonical_level=4)
    return pool
