"""Cityscapes: 40k iterations of 8 crops of 769 x 769, corners aligned, scored in windows of 769 that are 513 apart."""

_base_ = ["mmseg::_base_/datasets/cityscapes_769x769.py", "./fcn_r50_d8.py"]
size = (769, 769)
model = dict(
    data_preprocessor=dict(size=size),
    decode_head=dict(num_classes=19, align_corners=True),
    auxiliary_head=dict(num_classes=19, align_corners=True),
    test_cfg=dict(mode="slide", crop_size=size, stride=(513, 513)),
)
val_evaluator = dict(type="ClassIoU", iou_metrics=["mIoU"])
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=40_000, by_epoch=False)]
