"""A backbone's weights under other projects' names."""

from typing import Literal, get_args

from torch import Tensor

from ._names import to_detectron2
from ._resnet import ResNet

Format = Literal["torchvision", "timm", "mmdet", "detectron2"]


def export(model: ResNet, to: Format) -> dict[str, Tensor]:
    """Return a backbone's weights under the tensor names of another project.

    A Sobel backbone is refused, because none of these projects has the filter and it cannot be folded into conv1
    exactly (see the README). The error names two alternatives.

    Args:
        model: The backbone.
        to: "torchvision", "timm" and "mmdet" (also for mmseg and mmpretrain) use the same names as this package.
            "detectron2" renames the tensors (stem.conv1, res2 to res5, norm, shortcut) and drops num_batches_tracked;
            set RESNETS.STRIDE_IN_1X1 to False and the input format to RGB there.

    Returns:
        Copies of the tensors on the CPU in their dtypes, without a classifier. The network that loads them needs the
            same depth, width, stem and number of input channels.

    Raises:
        TypeError: If `model` is not a ResNet of this package.
        ValueError: If `to` is unknown or the backbone has a Sobel filter.

    Example:
        ```python
        torch.save({"model": export(backbone, "detectron2"), "matching_heuristics": True}, "backbone.pth")
        ```
    """
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
