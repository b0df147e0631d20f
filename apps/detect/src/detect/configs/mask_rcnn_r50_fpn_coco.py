"""COCO2017 with Mask R-CNN R50-FPN as published for self-supervised ResNet-50.

Differences from MMDetection's base config: nothing is frozen, batch norm is trained and synchronised, pyramid and heads
have batch norm too, and the box head has four convolutions and one linear layer.
"""

_base_ = ["./coco.py", "mmdet::_base_/models/mask-rcnn_r50_fpn.py"]
norm = dict(type="BN", requires_grad=True)

model = dict(
    backbone=dict(
        _delete_=True,
        type="SobelResNet",
        arch="resnet50",
        maps=("feature2", "feature3", "feature4", "feature5"),
    ),
    neck=dict(norm_cfg=norm),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", conv_out_channels=256, norm_cfg=norm),
        mask_head=dict(norm_cfg=norm),
    ),
)
