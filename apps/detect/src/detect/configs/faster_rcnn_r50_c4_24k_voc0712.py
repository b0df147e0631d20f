"""VOC07+12 as published for self-supervised ResNet-50: 24k iterations of 16 images, AP50 by 11 points.

Differences from MMDetection's base config: nothing is frozen, batch norm is trained and synchronised, strides are
placed as in torchvision, a norm follows layer4, there are VOC's 20 classes, and small boxes are kept.
"""

_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py",
    "mmdet::_base_/datasets/voc0712.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["detect.models"])

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(_delete_=True, type="SobelResNet", arch="resnet50", maps=("feature4",)),
    roi_head=dict(
        shared_head=dict(_delete_=True, type="SharedLayer4", arch="resnet50"),
        bbox_head=dict(num_classes=20),
    ),
    train_cfg=dict(rpn=dict(allowed_border=0)),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomChoiceResize", scales=[(1333, short) for short in range(480, 801, 32)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
voc07 = dict(
    type="VOCDataset",
    ann_file="VOC2007/ImageSets/Main/trainval.txt",
    data_prefix=dict(sub_data_root="VOC2007/"),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline=train_pipeline,
)
voc12 = {**voc07, "ann_file": "VOC2012/ImageSets/Main/trainval.txt", "data_prefix": dict(sub_data_root="VOC2012/")}
train_dataloader = dict(
    dataset=dict(_delete_=True, type="ConcatDataset", ignore_keys=["dataset_type"], datasets=[voc07, voc12])
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(type="VOCMetric", metric="mAP", eval_mode="11points")
val_cfg = dict(type="ValLoop")

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type="MultiStepLR", begin=0, end=24_000, by_epoch=False, milestones=[18_000, 22_000], gamma=0.1),
]
