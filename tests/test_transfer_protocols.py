"""Every number of the published detection and segmentation protocols, read from the configs as they are trained.

Written from the protocols' own tables (MMSelfSup 0.x configs), not from our config files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet", reason="needs the transfer group: uv run --group transfer pytest tests/test_transfer_*.py")

import detect.toolbox as detection
import segment.toolbox as segmentation
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from sobel_resnet import resnet18, resnet50
from torch import nn
from transfer_runs import Job, Progress, RunFolder, StopSignal, Weights
from transfer_runs.mmengine import Schedule, apply_options

VOC_CLASSES = tuple(map(str, range(20)))


def job(tmp_path: Path, **options: Any) -> Job:
    given = {"batch": None, "iterations": None, "lr_rule": "linear", "data": "real", "workers": None, "device": "auto"}
    given |= {"seed": 0, "checkpoint_every": None, "command": "voc", "schedule": "1x"}
    return Job(argparse.Namespace(**(given | options)), RunFolder(tmp_path), Progress(quiet=True), StopSignal())


def detector(name: str, tmp_path: Path, schedule: Schedule, n_classes: int, **options: Any) -> Config:
    config = Config.fromfile(detection.CONFIGS / name)
    detection.fit_backbone(config, Weights(resnet50(), None, ""), seed=0)
    protocol = "voc" if n_classes == 20 else "coco"
    detection.fit_data(config, tmp_path, tuple(map(str, range(n_classes))), protocol)
    apply_options(config, job(tmp_path, **options), schedule)
    return config


def segmenter(protocol: str, tmp_path: Path, **options: Any) -> Config:
    config = Config.fromfile(segmentation.CONFIGS / segmentation.CONFIG[protocol])
    segmentation.fit_backbone(config, Weights(resnet50(), None, ""), seed=0)
    classes = tuple(map(str, range(21 if protocol == "voc" else 19)))
    segmentation.fit_data(config, tmp_path, classes, drawn=False)
    apply_options(config, job(tmp_path, **options), segmentation.SCHEDULE[protocol])
    return config


def build(config: Config, scope: str) -> nn.Module:
    init_default_scope(scope)
    model: nn.Module = MODELS.build(config.model)
    return model


def check_trainable_and_normalised(model: nn.Module) -> None:
    assert all(p.requires_grad for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(m.training for m in model.train().modules() if m in norms)
    assert norms


def steps(pipeline: list[Any]) -> dict[str, Any]:
    return {step.type: step for step in pipeline}


RPN_ASSIGNER = {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3, "match_low_quality": True}
ROI_ASSIGNER = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5}


def check_has(config: Any, expected: dict[str, Any]) -> None:
    assert {key: config[key] for key in expected} == expected


def check_c4(config: Config, n_classes: int) -> None:
    model = config.model
    anchors = model.rpn_head.anchor_generator
    assert (anchors.scales, anchors.ratios, anchors.strides) == ([2, 4, 8, 16, 32], [0.5, 1.0, 2.0], [16])
    assert (model.rpn_head.in_channels, model.rpn_head.feat_channels) == (1024, 1024)
    assert model.rpn_head.bbox_coder.target_stds == [1.0, 1.0, 1.0, 1.0]
    train, test = model.train_cfg, model.test_cfg
    check_has(train.rpn.assigner, RPN_ASSIGNER)
    assert (train.rpn.sampler.num, train.rpn.sampler.pos_fraction, train.rpn.allowed_border) == (256, 0.5, 0)
    for proposals, before, after in ((train.rpn_proposal, 12_000, 2000), (test.rpn, 6000, 1000)):
        assert (proposals.nms_pre, proposals.max_per_img) == (before, after)
        assert (proposals.nms.iou_threshold, proposals.min_bbox_size) == (0.7, 0)
    check_has(train.rcnn.assigner, ROI_ASSIGNER | {"match_low_quality": False})
    assert (train.rcnn.sampler.num, train.rcnn.sampler.pos_fraction) == (512, 0.25)
    assert train.rcnn.sampler.add_gt_as_proposals
    roi = model.roi_head
    layer = roi.bbox_roi_extractor.roi_layer
    assert (layer.type, layer.output_size, layer.sampling_ratio) == ("RoIAlign", 14, 0)
    assert roi.bbox_roi_extractor.featmap_strides == [16]
    head = roi.bbox_head
    assert (head.with_avg_pool, head.roi_feat_size, head.in_channels, head.num_classes) == (True, 7, 2048, n_classes)
    assert (head.reg_class_agnostic, head.bbox_coder.target_stds) == (False, [0.1, 0.1, 0.2, 0.2])
    assert head.loss_bbox.type == model.rpn_head.loss_bbox.type == "L1Loss"
    assert (test.rcnn.score_thr, test.rcnn.nms.iou_threshold, test.rcnn.max_per_img) == (0.05, 0.5, 100)


def check_images(config: Config, shorts: range) -> None:
    preprocess = config.model.data_preprocessor
    assert preprocess.mean == [123.675, 116.28, 103.53]
    assert preprocess.std == [58.395, 57.12, 57.375]
    assert (preprocess.bgr_to_rgb, preprocess.pad_size_divisor) == (True, 32)
    dataset = config.train_dataloader.dataset
    for one in dataset.get("datasets", [dataset]):
        train = steps(one.pipeline)
        assert [tuple(s) for s in train["RandomChoiceResize"].scales] == [(1333, s) for s in shorts]
        assert train["RandomChoiceResize"].keep_ratio
        assert train["RandomFlip"].prob == 0.5
    test = steps(config.val_dataloader.dataset.pipeline)
    assert tuple(test["Resize"].scale) == (1333, 800)
    assert "RandomFlip" not in test


def check_sgd(config: Config, lr: float, weight_decay: float) -> None:
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("SGD", lr, 0.9, weight_decay)
    assert config.optim_wrapper.get("clip_grad") is None


def test_voc_detection(tmp_path: Path) -> None:
    config = detector("faster_rcnn_r50_c4_24k_voc0712.py", tmp_path, detection.VOC_SCHEDULE, 20)
    check_c4(config, 20)
    check_images(config, range(480, 801, 32))
    check_sgd(config, 0.02, 1e-4)
    assert config.train_dataloader.batch_size == 16
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (24_000, 2000)
    warmup, fall = config.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.end, warmup.by_epoch) == ("LinearLR", 0.001, 100, False)
    assert (fall.milestones, fall.gamma, fall.by_epoch) == ([18_000, 22_000], 0.1, False)
    lists = [one.ann_file for one in config.train_dataloader.dataset.datasets]
    assert lists == [f"VOC{year}/ImageSets/Main/trainval.txt" for year in (2007, 2012)]
    assert all("bbox_min_size" not in one.filter_cfg for one in config.train_dataloader.dataset.datasets)
    assert config.val_dataloader.dataset.ann_file == "VOC2007/ImageSets/Main/test.txt"
    assert (config.val_evaluator.metric, config.val_evaluator.eval_mode) == ("mAP", "11points")
    model = build(config, "mmdet")
    check_trainable_and_normalised(model)
    assert set(dict(model.backbone.named_children())) == {"conv1", "bn1", "maxpool", "layer1", "layer2", "layer3"}
    assert model.backbone.strides == (16,)
    assert model.roi_head.shared_head.norm.num_features == 2048
    assert model.roi_head.shared_head.layer4[0].conv2.stride == (2, 2)  # in the 3x3


def test_coco_fpn(tmp_path: Path) -> None:
    schedule = Schedule(12 * 7330, batch=16, warmup=1000, milestones=(8 * 7330, 11 * 7330), evaluate_every=7330)
    config = detector("mask_rcnn_r50_fpn_coco.py", tmp_path, schedule, 80)
    check_images(config, range(640, 801, 32))
    check_sgd(config, 0.02, 1e-4)
    assert (config.param_scheduler[0].end, config.param_scheduler[0].start_factor) == (1000, 0.001)
    assert config.param_scheduler[1].milestones == [8 * 7330, 11 * 7330]
    model, roi = config.model, config.model.roi_head
    anchors = model.rpn_head.anchor_generator
    assert (anchors.scales, anchors.ratios, anchors.strides) == ([8], [0.5, 1.0, 2.0], [4, 8, 16, 32, 64])
    train, test = model.train_cfg, model.test_cfg
    check_has(train.rpn.assigner, RPN_ASSIGNER)
    assert (train.rpn.allowed_border, train.rpn.sampler.num) == (-1, 256)
    assert (train.rpn_proposal.nms_pre, train.rpn_proposal.max_per_img) == (2000, 1000)
    assert (test.rpn.nms_pre, test.rpn.max_per_img, test.rpn.nms.iou_threshold) == (1000, 1000, 0.7)
    check_has(train.rcnn.assigner, ROI_ASSIGNER | {"match_low_quality": True})
    assert (train.rcnn.sampler.num, train.rcnn.sampler.pos_fraction, train.rcnn.mask_size) == (512, 0.25, 28)
    assert (roi.bbox_roi_extractor.roi_layer.output_size, roi.mask_roi_extractor.roi_layer.output_size) == (7, 14)
    assert roi.bbox_roi_extractor.featmap_strides == [4, 8, 16, 32]
    assert roi.bbox_roi_extractor.finest_scale == 56
    assert roi.mask_head.num_convs == 4
    assert (test.rcnn.score_thr, test.rcnn.nms.iou_threshold) == (0.05, 0.5)
    assert (test.rcnn.max_per_img, test.rcnn.mask_thr_binary) == (100, 0.5)
    assert config.val_evaluator.metric == ["bbox", "segm"]
    net = build(config, "mmdet")
    check_trainable_and_normalised(net)
    assert net.backbone.strides == (4, 8, 16, 32)
    assert type(net.roi_head.bbox_head).__name__ == "Shared4Conv1FCBBoxHead"
    for part, n in ((net.neck, 8), (net.roi_head.bbox_head, 4), (net.roi_head.mask_head, 4)):
        assert sum(isinstance(m, nn.BatchNorm2d) for m in part.modules()) == n
    assert len(net.roi_head.bbox_head.shared_fcs) == 1
    assert net.roi_head.bbox_head.fc_cls.out_features == 81
    assert net.roi_head.bbox_head.fc_reg.out_features == 320


def test_coco_c4(tmp_path: Path) -> None:
    config = detector("mask_rcnn_r50_c4_coco.py", tmp_path, Schedule(100, 16, evaluate_every=100), 80)
    check_c4(config, 80)
    check_images(config, range(640, 801, 32))
    mask = config.model.roi_head.mask_head
    assert (mask.num_convs, mask.in_channels, mask.num_classes) == (0, 2048, 80)
    assert config.model.train_cfg.rcnn.mask_size == 14
    check_trainable_and_normalised(build(config, "mmdet"))


@pytest.mark.parametrize(
    ("protocol", "size", "scale", "batch", "iterations", "every", "corners"),
    [("voc", 512, (2048, 512), 16, 20_000, 2000, False), ("cityscapes", 769, (2049, 1025), 8, 40_000, 4000, True)],
)
def test_segmentation(
    protocol: str,
    size: int,
    scale: tuple[int, int],
    batch: int,
    iterations: int,
    every: int,
    corners: bool,
    tmp_path: Path,
) -> None:
    config = segmenter(protocol, tmp_path)
    check_sgd(config, 0.01, 5e-4)
    (poly,) = config.param_scheduler
    assert (poly.type, poly.eta_min, poly.power, poly.end, poly.by_epoch) == ("PolyLR", 1e-4, 0.9, iterations, False)
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (iterations, every)
    assert config.train_dataloader.batch_size == batch
    dataset = config.train_dataloader.dataset
    for one in dataset.get("datasets", [dataset]):
        train = steps(one.pipeline)
        assert tuple(train["RandomResize"].scale) == scale
        assert tuple(train["RandomResize"].ratio_range) == (0.5, 2.0)
        assert tuple(train["RandomCrop"].crop_size) == (size, size)
        assert train["RandomCrop"].cat_max_ratio == 0.75
        assert train["RandomFlip"].prob == 0.5
        assert "PhotoMetricDistortion" in train
    assert tuple(steps(config.val_dataloader.dataset.pipeline)["Resize"].scale) == scale
    preprocess = config.model.data_preprocessor
    assert (preprocess.mean, preprocess.std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert (preprocess.pad_val, preprocess.seg_pad_val, tuple(preprocess.size)) == (0, 255, (size, size))
    test = config.model.test_cfg
    if protocol == "voc":
        assert test.mode == "whole"
        masks = [one.data_prefix.seg_map_path for one in dataset.datasets]
        assert masks == ["SegmentationClass", "SegmentationClassAug"]
    else:
        assert (test.mode, tuple(test.crop_size), tuple(test.stride)) == ("slide", (769, 769), (513, 513))
    init_default_scope("mmseg")
    from mmseg.registry import MODELS as SEGMENTERS

    model = SEGMENTERS.build(config.model)
    check_trainable_and_normalised(model)
    assert model.backbone.conv1.kernel_size == (7, 7)  # not the deep stem that such weights do not fit
    assert model.backbone.strides == (8, 8)
    dilations = [[b.conv2.dilation[0] for b in layer] for layer in (model.backbone.layer3, model.backbone.layer4)]
    assert dilations == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    decode, aux = model.decode_head, model.auxiliary_head
    assert [c.conv.out_channels for c in decode.convs] == [512, 512]
    assert (decode.conv_cat.conv.in_channels, decode.conv_cat.conv.out_channels) == (2560, 512)
    assert [(c.conv.in_channels, c.conv.out_channels) for c in aux.convs] == [(1024, 256)]
    assert not aux.concat_input
    for head in (decode, aux):
        assert isinstance(head.dropout, nn.Dropout2d)
        assert (head.dropout.p, head.align_corners) == (0.1, corners)
        assert head.conv_seg.weight.shape[0] == (21 if protocol == "voc" else 19)
    assert (decode.loss_decode.loss_weight, aux.loss_decode.loss_weight) == (1.0, 0.4)


def test_poly_learning_rate(tmp_path: Path) -> None:
    """Published anchor points: .01 at the start, .005405 half way, .0001 at the end."""
    import torch
    from mmengine.optim import PolyLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    one = segmenter("voc", tmp_path).param_scheduler[0]
    poly = PolyLR(optimizer, **{k: v for k, v in one.items() if k != "type"})
    rates = []
    for _ in range(20_001):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        poly.step()
    assert rates[0] == pytest.approx(0.01)
    assert rates[10_000] == pytest.approx(0.005405, abs=1e-6)
    assert rates[20_000] == pytest.approx(0.0001)


def test_options_move_the_schedule_along(tmp_path: Path) -> None:
    config = detector(
        "faster_rcnn_r50_c4_24k_voc0712.py", tmp_path, detection.VOC_SCHEDULE, 20, batch=4, iterations=2400
    )
    assert config.optim_wrapper.optimizer.lr == pytest.approx(0.005)
    assert config.param_scheduler[1].milestones == [1800, 2200]
    assert config.train_dataloader.batch_size == 4
    config = detector(
        "faster_rcnn_r50_c4_24k_voc0712.py", tmp_path, detection.VOC_SCHEDULE, 20, batch=4, lr_rule="none"
    )
    assert config.optim_wrapper.optimizer.lr == 0.02


def test_a_cifar_stem_sets_strides_and_channels(tmp_path: Path) -> None:
    config = Config.fromfile(detection.CONFIGS / "mask_rcnn_r50_fpn_coco.py")
    detection.fit_backbone(config, Weights(resnet18(stem="cifar", sobel=True), None, ""), seed=0)
    assert config.model.neck.in_channels == [64, 128, 256, 512]
    assert config.model.rpn_head.anchor_generator.strides == [1, 2, 4, 8, 16]
    assert config.model.roi_head.bbox_roi_extractor.finest_scale == 14
    config = Config.fromfile(detection.CONFIGS / "faster_rcnn_r50_c4_24k_voc0712.py")
    detection.fit_backbone(config, Weights(resnet18(), None, ""), seed=0)
    assert (config.model.rpn_head.in_channels, config.model.roi_head.bbox_head.in_channels) == (256, 512)
