"""Maps for detectors and segmentation heads, against the backbone itself and torchvision's dilated networks."""

import pytest
import torch
import torchvision
from sobel_resnet import FeatureMaps, LastStage, ResNet, architecture_of, resnet18, resnet34, resnet50
from torch import Tensor, nn


def images(size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def trained(backbone: ResNet) -> ResNet:
    """Change the running statistics from 0 and 1, then switch to evaluation mode."""
    backbone(images(64, backbone.in_channels))
    return backbone.eval()


@pytest.mark.parametrize(
    "backbone",
    [
        resnet50(width=0.5),
        resnet18(sobel=True, width=0.5),
        resnet18(stem="cifar", width=0.25),
        resnet34(width=0.3, in_channels=1),
    ],
    ids=["half as wide", "sobel", "cifar", "grey"],
)
def test_maps_channels_and_strides_are_those_of_the_backbone(backbone: ResNet) -> None:
    trained(backbone)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    names = ("feature5", "feature1", "feature3", "feature2", "feature4")  # any order
    net = FeatureMaps(backbone, names)
    x = images(channels=backbone.in_channels)
    wanted = backbone.stages(x)
    for found, name, channels, stride in zip(net(x), names, net.channels, net.strides, strict=True):
        assert torch.equal(found, wanted[name])
        assert found.shape == (2, channels, 32 // stride, 32 // stride)
    assert list(net.state_dict()) == list(before)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("output_stride", [8, 16])
def test_equal_to_torchvisions_dilated_resnet50(output_stride: int) -> None:
    backbone = resnet50(seed=1)
    with torch.device("meta"):
        theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, output_stride == 8, True])
    theirs.fc = nn.Identity()
    theirs.load_state_dict({key: value.clone() for key, value in backbone.state_dict().items()}, assign=True)
    layers = {f"layer{i}": f"feature{i + 1}" for i in range(1, 5)}
    taps = torchvision.models._utils.IntermediateLayerGetter(theirs, layers)
    net = FeatureMaps(backbone, output_stride=output_stride)  # type: ignore[arg-type]
    assert net.strides == {8: (4, 8, 8, 8), 16: (4, 8, 16, 16)}[output_stride]
    for train in (True, False):
        net.train(train), taps.train(train)
        for found, wanted in zip(net(images()), taps(images()).values(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [resnet18, resnet50])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_a_dilated_stage_computes_what_it_was_trained_for(make: type[ResNet], output_stride: int) -> None:
    """Sampled at the old stride, the dilated maps equal the old maps, including the border."""
    backbone = trained(make(width=0.25)).double()  # type: ignore[arg-type]
    x = images(64).double()
    net = FeatureMaps(backbone, output_stride=output_stride)  # type: ignore[arg-type]
    for found, wanted, stride, old in zip(
        net(x), list(backbone.stages(x).values())[1:], net.strides, (4, 8, 16, 32), strict=True
    ):
        assert stride == min(old, output_stride)
        step = old // stride
        torch.testing.assert_close(found[:, :, ::step, ::step], wanted)
    assert {conv.stride for conv in backbone.layer4.modules() if isinstance(conv, nn.Conv2d)} == {(1, 1), (2, 2)}


def test_a_cifar_stem_has_no_stride_to_spare() -> None:
    backbone = trained(resnet18(stem="cifar", width=0.25))
    net = FeatureMaps(backbone, ("feature2", "feature5"), output_stride=8)
    assert (net.strides, net.channels) == ((1, 8), (16, 128))
    assert torch.equal(net(images(32))[1], backbone.stages(images(32))["feature5"])


@pytest.mark.parametrize("deepest", range(1, 6))
def test_no_parameter_is_dead(deepest: int) -> None:
    net = FeatureMaps(resnet18(sobel=True, width=0.25), (f"feature{deepest}",), output_stride=16)
    net(images())[0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
    assert {name.split(".")[0] for name in net.state_dict()} == {
        "conv1",
        "bn1",
        *(f"layer{i}" for i in range(1, deepest)),
    }


def test_trained_maps_go_back_into_a_backbone() -> None:
    net = FeatureMaps(resnet18(width=0.5, seed=1), output_stride=8)
    net(images())
    backbone = resnet18(width=0.5)
    backbone.load_state_dict(net.state_dict())
    plain = FeatureMaps(backbone, output_stride=8)
    assert torch.equal(plain.eval()(images())[-1], net.eval()(images())[-1])


def test_last_stage_completes_feature4() -> None:
    backbone = trained(resnet18(sobel=True, width=0.5))
    shallow, last = FeatureMaps(backbone, ("feature4",)), LastStage(backbone)
    assert torch.equal(last(shallow(images())[0]), backbone.stages(images())["feature5"])
    assert (last.in_channels, last.num_features) == (*shallow.channels, backbone.num_features)
    assert [*shallow.state_dict(), *last.state_dict()] == list(backbone.state_dict())
    assert last.layer4 is not backbone.layer4


def test_architecture_rebuilds_an_empty_network() -> None:
    for backbone in (resnet18(sobel=True, stem="cifar", width=0.3), resnet34(width=0.5, in_channels=1)):
        again = ResNet(**architecture_of(backbone), seed=1)
        assert again.load_state_dict(backbone.state_dict()).missing_keys == []
        assert architecture_of(again) == architecture_of(backbone)


def test_errors() -> None:
    backbone = resnet18(width=0.25)
    for maps in ((), ("layer1",), "feature2"):
        with pytest.raises(ValueError, match="maps must be a tuple of some of feature1, feature2"):
            FeatureMaps(backbone, maps)
    with pytest.raises(ValueError, match="8, 16 or 32, got 4"):
        FeatureMaps(backbone, output_stride=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\)"):
        FeatureMaps(backbone)(images(channels=1))
