"""VOC12aug: 20k iterations of 16 crops of 512 x 512 from train and SBD; whole images of VOC2012 val are scored."""

_base_ = ["mmseg::_base_/datasets/pascal_voc12_aug.py", "./fcn_r50_d8.py"]
size = (512, 512)
model = dict(
    data_preprocessor=dict(size=size),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21),
)
val_evaluator = dict(type="ClassIoU", iou_metrics=["mIoU"])
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=20_000, by_epoch=False)]
