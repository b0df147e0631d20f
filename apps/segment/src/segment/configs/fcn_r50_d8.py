"""FCN-R50-d8 as published for self-supervised ResNet-50, for both data sets.

Differences from MMSegmentation's base config: our ResNet with its 7x7 stem, as self-supervised weights have no keys for
the deep stem of ResNetV1c; SGD with weight decay 5e-4 and a polynomial decay from 0.01 to 1e-4 without warm-up.
"""

_base_ = [
    "mmseg::_base_/models/fcn_r50-d8.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_20k.py",
]
custom_imports = dict(imports=["segment.models"])
norm = dict(type="BN", requires_grad=True)

model = dict(
    pretrained=None,
    backbone=dict(_delete_=True, type="SobelResNet", arch="resnet50", maps=("feature4", "feature5"), output_stride=8),
    decode_head=dict(in_index=1, norm_cfg=norm),
    auxiliary_head=dict(in_index=0, norm_cfg=norm),
)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4), clip_grad=None
)
