"""Name networks that are not ours, so that their weights are refused with the reason."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_BY_NAME = (
    (r"stem\.conv1\.", "a model of maskrcnn-benchmark (its stride may be on the 1x1 convolution)"),
    (r"attnpool\.|conv3\.weight", "CLIP's ResNet (a stem of three convolutions, attention pooling)"),
    (r"conv1\.\d\.|stem\.\d\.|embedder\.embedder\.\d\.", "a ResNet-C, -D or V1d (a deep stem)"),
    (r"layer\d\.\d+\.downsample\.2\.", "a ResNet-D (average pooling in its shortcuts)"),
    (r"layer\d\.\d+\.conv2\.(conv|fc1)\.", "a ResNeSt or SKNet (split attention)"),
    (
        r"layer\d\.\d+\.(se|fc|eca|ca|cbam|attn|attention|context_block)\d?\.",
        "a ResNet with attention (SE and others)",
    ),
    (r"layer\d\.\d+\.(bn\d\.(IN|BN)|IN)\.", "an IBN-Net (instance norm)"),
    (r"layer\d\.\d+\.conv\d\.bias", "a ResNet with biases, such as one with BatchNorm folded into its convolutions"),
    (r"layer\d\.\d+\.conv\d\.(_packed_params|weight_fake_quant|scale|activation_post)", "a quantized ResNet"),
)
_ELSEWHERE = (
    (r"root\.conv\.weight|block1\.unit01\.|stages\.0\.blocks\.0\.conv1\.weight", "a BiT or other ResNet-v2"),
    (r"conv0\.|bn0\.|features\.norm0\.", "a DenseNet"),
    (r"res_?conv1_|res2_0_branch2a|res2a_branch2a", "a ResNet under Caffe's names, whose strides are elsewhere"),
    (
        r"(bottom_up\.)?stem\.conv1\.weight",
        "a detectron2 model (its stride may be on the 1x1 convolution; only unprefixed names are read)",
    ),
    (r"(cls_token|pos_embed|class_token|patch_embeddings?\..*|patch_embed\..*)", "a vision transformer"),
    (r"(downsample_layers|stages)\.\d\.(\d|blocks\.\d|layers\.\d)\.(gamma|conv_dw|dwconv)", "a ConvNeXt"),
    (r"features\.\d+\.conv\.\d", "a MobileNet"),
    (r"_?blocks\.\d+\..*(_depthwise_conv|conv_dw|conv_pw)", "an EfficientNet or MobileNet"),
    (r"net\.\d\.blocks\.0\.net\.", "a SimCLR-v2 network, whose blocks are numbered"),
)


def lookalike(tensors: Mapping[str, Tensor]) -> str | None:
    """Return which network has names like ours under a prefix but computes something else, or None if none is known."""
    if found := _match(_BY_NAME, tensors):
        return found
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if not value.is_nested}
    inner, grouped = shapes.get("layer1.0.conv1.weight", ()), shapes.get("layer1.0.conv2.weight", ())
    stem = shapes.get("conv1.weight", ())
    if len(inner) == len(grouped) == 4:
        n_groups = inner[0] // max(1, grouped[1])
        if n_groups > 1 and grouped[1] * n_groups == inner[0]:
            return f"a ResNeXt ({n_groups} groups in layer1.0.conv2)"
        if "layer1.0.conv3.weight" in shapes and stem and inner[0] != stem[0] and inner[2:] == (1, 1):
            return f"a wide ResNet (blocks {inner[0]} wide behind a stem of {stem[0]})"
    if "bn1.weight" not in tensors and "layer1.0.bn1.weight" in tensors and "conv1.weight" in tensors:
        return "a pre-activation ResNet (v2)"
    if not any(name.endswith("running_mean") for name in tensors) and "bn1.weight" in tensors:
        return "a ResNet without running statistics, such as one with GroupNorm"
    return None


def other_network(names: Iterable[str]) -> str | None:
    """Return which other network these names belong to, or None if it is not known."""
    return _match([(rf"(.*\.)?({pattern})", what) for pattern, what in _ELSEWHERE], names)


def _match(table: Iterable[tuple[str, str]], names: Iterable[str]) -> str | None:
    names = [name for name in names if len(name) < 1_000]
    return next((what for pattern, what in table if any(re.match(pattern, name) for name in names)), None)
