"""Weights under other projects' names: what those projects expect, and loading them again."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from sobel_resnet import FeatureMaps, ResNet, SobelFilter, architecture_of, export, load_backbone, resnet18, resnet50
from torch import Tensor, nn
from torch.nn import functional as F

FORMATS = ("torchvision", "timm", "mmdet", "detectron2")
NORM = ("weight", "bias", "running_mean", "running_var")


def images(n: int = 2, size: int = 48) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_torchvision_loads_the_export_strictly_but_for_fc() -> None:
    backbone = resnet50(seed=3).eval()
    with torch.device("meta"):
        theirs = torchvision.models.resnet50().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(export(backbone, "torchvision"), strict=True, assign=True)
    torch.testing.assert_close(theirs(images()), backbone(images()))


def test_detectron2_names() -> None:
    wanted = ["stem.conv1.weight", *(f"stem.conv1.norm.{part}" for part in NORM)]
    for stage, n_blocks in (("res2", 3), ("res3", 4), ("res4", 6), ("res5", 3)):
        for block in range(n_blocks):
            layers = ("conv1", "conv2", "conv3", "shortcut") if block == 0 else ("conv1", "conv2", "conv3")
            for layer in layers:
                wanted.append(f"{stage}.{block}.{layer}.weight")
                wanted.extend(f"{stage}.{block}.{layer}.norm.{part}" for part in NORM)
    backbone = resnet50(width=0.25)
    found = export(backbone, "detectron2")
    assert sorted(found) == sorted(wanted)
    ours = backbone.state_dict()
    for theirs, name in {
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res4.0.shortcut.norm.bias": "layer3.0.downsample.1.bias",
        "res5.2.conv3.norm.weight": "layer4.2.bn3.weight",
    }.items():
        assert torch.equal(found[theirs], ours[name])
        assert found[theirs].shape == ours[name].shape


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("options", [{}, {"width": 0.375, "stem": "cifar"}, {"in_channels": 1}], ids=str)
def test_round_trip(tmp_path: Path, to: Any, options: dict[str, Any]) -> None:
    backbone = ResNet("resnet18", **{"width": 0.25, **options}, seed=4)
    backbone(torch.randn(2, backbone.in_channels, 32, 32, generator=torch.Generator().manual_seed(0)))
    tensors = export(backbone, to)
    torch.save({"model": tensors, "matching_heuristics": True}, tmp_path / "x.pth")
    again, report = load_backbone(tmp_path / "x.pth")
    assert architecture_of(again) == architecture_of(backbone)
    assert (report.matched, report.dropped) == (len(tensors), ())
    assert report.family == ("detectron2" if to == "detectron2" else "torchvision")
    for key, value in backbone.state_dict().items():
        if to != "detectron2" or not key.endswith("num_batches_tracked"):
            assert torch.equal(again.state_dict()[key], value), key


def test_the_model_is_not_shared() -> None:
    backbone = resnet18(width=0.25)
    before = backbone.conv1.weight.clone()
    tensors = export(backbone, "timm")
    assert not any(value.requires_grad for value in tensors.values())
    tensors["conv1.weight"].zero_()
    assert torch.equal(backbone.conv1.weight, before)


@pytest.mark.parametrize("to", FORMATS)
def test_sobel_is_refused_and_the_way_out_works(to: Any) -> None:
    backbone = resnet18(sobel=True, width=0.25).eval()
    with pytest.raises(ValueError, match=rf"{to} has no Sobel filter") as caught:
        export(backbone, to)
    for way in ("FeatureMaps(model)", "ResNet(**architecture_of(model) | dict(sobel=False, in_channels=2))"):
        assert way in str(caught.value)
    behind = ResNet(**architecture_of(backbone) | dict(sobel=False, in_channels=2)).eval()
    behind.load_state_dict(backbone.state_dict())
    assert next(iter(export(behind, to).values())).shape == (16, 2, 7, 7)
    assert torch.equal(behind(SobelFilter()(images())), backbone(images()))
    assert torch.equal(FeatureMaps(backbone, ("feature5",))(images())[0].mean((2, 3)), backbone(images()))


def test_why_the_filter_is_not_folded_into_conv1() -> None:
    """One 9x9 convolution equals the filter followed by conv1 inside the image, but not along its border."""
    backbone = resnet18(sobel=True, width=0.25).double()
    sobel = SobelFilter().kernels.double()  # (2, 1, 3, 3)
    # The composed kernel is the response to an image with a single 1, flipped.
    delta = torch.zeros(1, 1, 17, 17, dtype=torch.float64)
    delta[0, 0, 8, 8] = 1
    answer = F.conv2d(F.conv2d(delta, sobel, padding=1), backbone.conv1.weight, padding=3)[0]
    folded = answer[:, 4:13, 4:13].flip(1, 2)[:, None].expand(-1, 3, -1, -1) / 3
    x = images().double()
    exact, guess = backbone.conv1(SobelFilter()(x)), F.conv2d(x, folded, stride=2, padding=4)
    torch.testing.assert_close(guess[:, :, 2:-2, 2:-2], exact[:, :, 2:-2, 2:-2])
    assert (guess - exact)[:, :, 0].abs().mean() > 0.1 * exact.abs().mean()


def test_errors() -> None:
    with pytest.raises(ValueError, match="format must be one of torchvision, timm, mmdet, detectron2, got 'onnx'"):
        export(resnet18(width=0.25), "onnx")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got Linear: unwrap"):
        export(nn.Linear(2, 2), "timm")  # type: ignore[arg-type]
