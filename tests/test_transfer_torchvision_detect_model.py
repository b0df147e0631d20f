"""detect with torchvision: the parts of the detector."""

from typing import Any

import pytest
import torch
from detect.torchvision_model import build_detector
from sobel_resnet import ResNet
from torch import nn


def test_the_detector_has_the_published_parts() -> None:
    backbone = ResNet("resnet18", width=0.25, seed=1)
    model = build_detector(backbone, 80, seed=0)
    assert model.transform.min_size == (640, 672, 704, 736, 768, 800)
    assert model.transform.max_size == 1333
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert model.rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    assert (model.rpn._pre_nms_top_n["training"], model.rpn._post_nms_top_n["training"]) == (2000, 1000)
    assert (model.rpn._pre_nms_top_n["testing"], model.rpn._post_nms_top_n["testing"]) == (1000, 1000)
    roi = model.roi_heads
    assert (roi.fg_bg_sampler.batch_size_per_image, roi.fg_bg_sampler.positive_fraction) == (512, 0.25)
    assert (roi.score_thresh, roi.nms_thresh, roi.detections_per_img) == (0.05, 0.5, 100)
    assert (roi.proposal_matcher.high_threshold, roi.proposal_matcher.low_threshold) == (0.5, 0.5)
    assert roi.proposal_matcher.allow_low_quality_matches
    assert roi.box_coder.weights == (10.0, 10.0, 5.0, 5.0)
    assert (roi.box_roi_pool.output_size, roi.mask_roi_pool.output_size) == ((7, 7), (14, 14))
    assert (roi.box_roi_pool.sampling_ratio, roi.mask_roi_pool.sampling_ratio) == (0, 0)
    for head, convs in ((roi.box_head, 4), (roi.mask_head, 4), (model.backbone.fpn, 8)):
        kinds = [type(module) for module in head.modules()]
        assert (kinds.count(nn.Conv2d), kinds.count(nn.BatchNorm2d)) == (convs, convs)
    assert [m.out_features for m in roi.box_head.modules() if isinstance(m, nn.Linear)] == [1024]
    assert (roi.box_predictor.cls_score.out_features, roi.box_predictor.bbox_pred.out_features) == (81, 324)
    assert roi.mask_predictor.mask_fcn_logits.out_channels == 81
    assert all(p.requires_grad for p in model.parameters())
    inside = model.backbone.body.state_dict()
    assert all(torch.equal(inside[name], t) for name, t in backbone.state_dict().items())
    same = build_detector(backbone, 80, seed=0).state_dict()
    assert all(torch.equal(same[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(("stem", "strides"), [("imagenet", (4, 8, 16, 32, 64)), ("cifar", (1, 2, 4, 8, 16))])
def test_anchors_and_regions_follow_the_strides_of_the_backbone(stem: Any, strides: tuple[int, ...]) -> None:
    model = build_detector(ResNet("resnet18", stem=stem, width=0.25), 3, seed=0, scale=0.1, channels=8).eval()
    assert model.backbone.strides == strides
    assert model.roi_heads.box_roi_pool.scales == [1 / stride for stride in strides[:4]]
    images, _ = model.transform([torch.rand(3, 70, 99)])
    maps = list(model.backbone(images.tensors).values())
    height, width = images.tensors.shape[-2:]
    assert [(height / m.shape[-2], width / m.shape[-1]) for m in maps] == [(stride, stride) for stride in strides]
    anchors = model.rpn.anchor_generator(images, maps)[0]
    start = 0
    for stride, m in zip(strides, maps, strict=True):
        level = anchors[start : start + 3 * m.shape[-1] * m.shape[-2]].reshape(*m.shape[-2:], 3, 4)
        assert level[0, 1, 0, 0] - level[0, 0, 0, 0] == stride
        assert (level[0, 0, 1, 2] - level[0, 0, 1, 0]) == 8 * stride  # the square one
        start += 3 * m.shape[-1] * m.shape[-2]
    assert start == len(anchors)
    mapper = model.roi_heads.box_roi_pool.map_levels
    region = torch.tensor([[0.0, 0.0, 56.0, 56.0]])
    assert strides[int(mapper([region])[0])] == 4
