"""COCO2017 with Mask R-CNN R50-C4 as published for self-supervised ResNet-50.

Differences from MMDetection's base config: nothing is frozen, batch norm is trained and synchronised, strides are
placed as in torchvision, and a norm follows layer4.
"""

_base_ = ["./coco.py", "mmdet::_base_/models/mask-rcnn_r50-caffe-c4.py"]

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(_delete_=True, type="SobelResNet", arch="resnet50", maps=("feature4",)),
    roi_head=dict(shared_head=dict(_delete_=True, type="SharedLayer4", arch="resnet50")),
)
