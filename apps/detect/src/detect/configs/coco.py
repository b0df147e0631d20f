"""COCO2017 for both Mask R-CNN configs: data, scales 640 to 800, SGD, evaluation of boxes and masks."""

_base_ = ["mmdet::_base_/datasets/coco_instance.py", "mmdet::_base_/default_runtime.py"]
custom_imports = dict(imports=["detect.models"])

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True, poly2mask=True),
    dict(type="RandomChoiceResize", scales=[(1333, short) for short in range(640, 801, 32)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(type="CocoMetric", metric=["bbox", "segm"])
val_cfg = dict(type="ValLoop")

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=87_960, by_epoch=False, milestones=[58_640, 80_630], gamma=0.1),
]
