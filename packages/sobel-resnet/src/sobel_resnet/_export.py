"""A backbone's weights under other projects' names."""

from typing import Literal, get_args

from torch import Tensor

from ._names import to_detectron2
from ._resnet import ResNet

Format = Literal["torchvision", "timm", "mmdet", "detectron2"]


def export(model: ResNet, to: Format) -> dict[str, Tensor]:
    """The state_dict under another project's names: copies on the CPU, dtype kept, no classifier.

    to: "torchvision", "timm" and "mmdet" (also mmseg and mmpretrain) name tensors as we do. "detectron2" has
    stem.conv1.*, res2 ... res5, .norm and .shortcut, and no num_batches_tracked; write it with
    `torch.save({"model": export(...), "matching_heuristics": True}, "x.pth")` and set RESNETS.STRIDE_IN_1X1 False and
    RGB input there. Shapes are the model's: whoever reads them needs the same depth, width, stem and in_channels.

    A Sobel backbone is refused: none of these projects has the filter, and the tensors alone would be another network.
    Nor does the filter fold into conv1. Grey and gradient are linear, so both would make one 9x9 convolution of three
    channels, but conv1 puts zeros around the filter's output where the 9x9 sees gradients of the image's edge: maps
    would be equal inside and wrong along the border. The error names the two ways out.
    Raises TypeError if model is not a ResNet, ValueError for an unknown format or a Sobel backbone."""
    if not isinstance(model, ResNet):
        raise TypeError(f"model must be a ResNet of sobel_resnet, got {type(model).__name__}: unwrap it first")
    if to not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {to!r}")
    if model.sobel is not None:
        raise ValueError(
            f"{to} has no Sobel filter, and it does not fold into conv1 exactly: use FeatureMaps(model) as backbone "
            "there, or load the same state_dict into ResNet(**architecture_of(model) | dict(sobel=False, "
            "in_channels=2)), export that, and run SobelFilter() on the images yourself"
        )
    tensors = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    if to != "detectron2":
        return tensors
    return {to_detectron2(key): value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
