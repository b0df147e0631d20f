"""Networks that look like ours and are others: refused with the reason, in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from sobel_resnet import load_backbone, resnet18, resnet50
from torch import Tensor

State = dict[str, Any]


def small() -> State:
    return dict(resnet18(width=1 / 32).state_dict())


def bottlenecks() -> State:
    return dict(resnet50(width=1 / 32).state_dict())


def zeros(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def of_torchvision(make: Callable[[], torch.nn.Module]) -> State:
    with torch.device("meta"):
        model = make()
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in model.state_dict().items()}


def without(state: State, *parts: str) -> State:
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


def clip() -> State:
    extra = {f"{layer}.weight": torch.zeros(2) for layer in ("conv2", "conv3", "bn2", "bn3")}
    state = bottlenecks() | extra | {"attnpool.positional_embedding": torch.zeros(50, 64)}
    return {f"visual.{key}": value for key, value in state.items()} | {"token_embedding.weight": torch.zeros(3, 3)}


def deep_stem(name: str) -> State:
    stem = {f"{name}.{i}.weight": torch.zeros(2, 3, 3, 3) for i in (0, 3, 6)}
    return {key: value for key, value in bottlenecks().items() if key != "conv1.weight"} | stem


def resnet_d_shortcut() -> State:
    state = without(bottlenecks(), "downsample.")
    for i in (1, 2, 3, 4):
        state[f"layer{i}.0.downsample.1.weight"] = torch.zeros(8, 2, 1, 1)
        state[f"layer{i}.0.downsample.2.weight"] = torch.zeros(8)
    return state


def deeper() -> State:
    """The names of a ResNet-152, as far as its blocks are counted."""
    more = [f"layer2.{i}" for i in range(4, 8)] + [f"layer3.{i}" for i in range(6, 36)]
    return bottlenecks() | {f"{block}.conv1.weight": torch.zeros(1) for block in more}


LOOKALIKES: dict[str, tuple[Callable[[], State], str]] = {
    "clip": (clip, "CLIP's ResNet"),
    "resnext": (
        lambda: of_torchvision(torchvision.models.resnext50_32x4d),
        r"a ResNeXt \(32 groups in layer1\.0\.conv2\)",
    ),
    "wide resnet": (
        lambda: of_torchvision(torchvision.models.wide_resnet50_2),
        r"a wide ResNet \(blocks 128 wide behind a stem of 64\)",
    ),
    "deep stem of timm": (lambda: deep_stem("conv1"), "a deep stem"),
    "deep stem of mmpretrain": (lambda: deep_stem("stem"), "a deep stem"),
    "maskrcnn-benchmark": (
        lambda: {f"stem.{k}" if k == "conv1.weight" else k: v for k, v in bottlenecks().items()},
        "a model of maskrcnn-benchmark",
    ),
    "resnet-d": (resnet_d_shortcut, "a ResNet-D"),
    "se-resnet": (lambda: small() | zeros(layer1__0__se__fc1__weight=(2, 2, 1, 1)), "attention"),
    "eca": (lambda: small() | zeros(layer1__0__se__conv__weight=(1, 1, 3)), "attention"),
    "resnest": (lambda: bottlenecks() | zeros(layer1__0__conv2__conv__weight=(2, 2, 3, 3)), "a ResNeSt or SKNet"),
    "ibn-net": (lambda: bottlenecks() | zeros(layer1__0__bn1__IN__weight=(2,)), "an IBN-Net"),
    "folded": (lambda: without(small(), "bn") | zeros(layer1__0__conv1__bias=(2,)), "BatchNorm folded"),
    "group norm": (lambda: without(small(), "running_", "num_batches"), "GroupNorm"),
    "preact": (lambda: {k: v for k, v in small().items() if not k.startswith("bn1.")}, "a pre-activation ResNet"),
    "resnet152": (deeper, r"blocks per stage \(3, 8, 36, 3\)"),
    "cifar resnet of three stages": (lambda: without(small(), "layer4"), r"blocks per stage \(2, 2, 2, 0\)"),
    "bit": (lambda: zeros(root__conv__weight=(64, 3, 7, 7), block1__unit01__conv1__weight=(1, 1, 64, 64)), "a BiT"),
    "bit of timm": (
        lambda: zeros(stem__conv__weight=(64, 3, 7, 7), stages__0__blocks__0__conv1__weight=(64, 64, 1, 1)),
        "a BiT",
    ),
    "vit": (
        lambda: zeros(cls_token=(1, 1, 8), pos_embed=(1, 5, 8), blocks__0__norm1__weight=(8,)),
        "a vision transformer",
    ),
    "dino vit": (
        lambda: {
            "student": zeros(module__backbone__cls_token=(1, 1, 8)),
            "teacher": zeros(backbone__cls_token=(1, 1, 8)),
        },
        "a vision transformer",
    ),
    "vit of transformers": (
        lambda: zeros(vit__embeddings__patch_embeddings__projection__weight=(8, 3, 16, 16)),
        "a vision transformer",
    ),
    "convnext": (lambda: zeros(downsample_layers__0__0__weight=(8, 3, 4, 4), stages__0__0__gamma=(8,)), "a ConvNeXt"),
    "densenet": (lambda: zeros(features__conv0__weight=(8, 3, 7, 7), features__norm0__weight=(8,)), "a DenseNet"),
    "detectron2's own": (
        lambda: {"model": zeros(backbone__bottom_up__stem__conv1__weight=(64, 3, 7, 7))},
        "a detectron2 model",
    ),
    "caffe2": (lambda: zeros(res2_0_branch2a_w=(64, 64, 1, 1)), "Caffe's names"),
    "simclr v2": (
        lambda: {"resnet": zeros(net__0__0__weight=(64, 3, 7, 7), net__1__blocks__0__net__0__weight=(8, 8, 1, 1))},
        "a SimCLR-v2 network",
    ),
    "deep stem of rt-detr": (
        lambda: zeros(embedder__embedder__0__convolution__weight=(32, 3, 3, 3)),
        "no ResNet found",
    ),
    "nothing like it": (lambda: zeros(lstm__weight=(2, 2)), r"expected 'conv1\.weight'.* got '\S*lstm\.weight'"),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_other_networks_are_refused_by_name(tmp_path: Path, name: str) -> None:
    make, said = LOOKALIKES[name]
    content = make()
    if len(name) % 2 and all(isinstance(value, Tensor) for value in content.values()):  # half of them with a prefix
        content = {"state_dict": {f"module.{key}": value for key, value in content.items()}}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=said) as caught:
        load_backbone(tmp_path / "x.pth")
    assert str(caught.value).startswith(f"{tmp_path / 'x.pth'}: ")
    assert "\n" not in str(caught.value)


def test_a_lookalike_beside_ours_is_left_behind(tmp_path: Path) -> None:
    ours = resnet18(width=1 / 32, seed=3).state_dict()
    torch.save(clip() | {f"my.encoder.{key}": value for key, value in ours.items()}, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert torch.equal(model.conv1.weight, ours["conv1.weight"])
    assert (report.prefix, report.others) == (
        "my.encoder.",
        ("visual. (not loadable: CLIP's ResNet (a stem of three convolutions, attention pooling))",),
    )
