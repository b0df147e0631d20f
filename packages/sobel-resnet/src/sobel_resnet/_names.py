"""Tensor names of the same ResNet in other projects. "Ours" are torchvision's, shared by timm, mmdet and mmpretrain."""

import re
from collections.abc import Iterable

_STAGE = re.compile(r"(\d+)\.0\.conv1\.weight")
_SHORTCUT = re.compile(r"(layer\d+\.\d+)\.shortcut\.")
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def to_detectron2(name: str) -> str:
    """Translate our name to detectron2's: layer1.0.bn2.bias -> res2.0.conv2.norm.bias, conv1.* -> stem.conv1.*."""
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    stage, _, rest = name.partition(".")
    return f"res{int(stage[5:]) + 1}.{rest}" if stage.startswith("layer") else f"stem.{name}"


def from_detectron2(name: str) -> str:
    """Translate detectron2's name to ours; names that `to_detectron2` cannot produce stay as they are."""
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name.removeprefix("stem."))
    name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    return re.sub(r"^res([2-5])\.", lambda found: f"layer{int(found[1]) - 1}.", name)


def is_sequential(names: Iterable[str]) -> bool:
    """Tell whether the names are those of `nn.Sequential(*resnet.children())` without its classifier.

    Raises ValueError if the stages are at other positions than 4 to 7: then ReLU or max-pooling is missing, as in
    Lightly's ResNetGenerator without its head, and our ResNet would compute something else from the same weights.
    """
    places = sorted({int(found[1]) for name in names if (found := _STAGE.fullmatch(name))})
    if places and places != [4, 5, 6, 7]:
        raise ValueError(
            f"a Sequential with stages at {places}, expected [4, 5, 6, 7] after conv1, bn1, ReLU and max-pool: "
            "not torchvision's ResNet (Lightly's ResNetGenerator loses the ReLU of its stem this way)"
        )
    return bool(places)


def from_sequential(name: str) -> str:
    """Translate a name in an `nn.Sequential` to ours: 5.0.bn1.bias -> layer2.0.bn1.bias; others stay as they are."""
    place, dot, rest = name.partition(".")
    return _SEQUENTIAL.get(place, place) + dot + rest


def has_shortcuts(names: Iterable[str]) -> bool:
    """Tell whether blocks call their projection `shortcut`, as many codes for CIFAR do, and none calls it ours."""
    names = list(names)
    return any(map(_SHORTCUT.match, names)) and not any(".downsample." in name for name in names)


def from_shortcut(name: str) -> str:
    """Translate layer2.0.shortcut.1.bias to layer2.0.downsample.1.bias; others stay as they are."""
    return _SHORTCUT.sub(r"\1.downsample.", name)


def from_transformers(name: str) -> str:
    """Translate a name of the ResNet in Hugging Face's transformers to ours; others stay as they are.

    encoder.stages.1.layers.0.layer.2.normalization.bias -> layer2.0.bn3.bias; shortcut.* -> downsample.0 and .1.
    """
    part = {"convolution": "conv", "normalization": "bn"}
    if found := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", name):
        return f"{part[found[1]]}1.{found[2]}"
    block = r"encoder\.stages\.(\d)\.layers\.(\d+)"
    if found := re.fullmatch(block + r"\.shortcut\.(convolution|normalization)\.(\w+)", name):
        place = 0 if found[3] == "convolution" else 1
        return f"layer{int(found[1]) + 1}.{found[2]}.downsample.{place}.{found[4]}"
    if found := re.fullmatch(block + r"\.layer\.(\d)\.(convolution|normalization)\.(\w+)", name):
        return f"layer{int(found[1]) + 1}.{found[2]}.{part[found[4]]}{int(found[3]) + 1}.{found[5]}"
    return name
