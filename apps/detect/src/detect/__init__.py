"""Detection and instance segmentation on top of a backbone: VOC07+12 and COCO2017."""
