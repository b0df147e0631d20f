"""Semantic segmentation on top of a backbone: VOC12aug and Cityscapes."""
