"""Files as VISSL, Lightly, MMSelfSup (DeepCluster with Sobel) and the DeepCluster code of 2018 write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from sobel_resnet import ResNet, architecture_of, load_backbone, resnet18, resnet50
from torch import Tensor, nn

SOBEL = {
    "0.weight": torch.full((1, 3, 1, 1), 1 / 3),
    "0.bias": torch.zeros(1),
    "1.weight": torch.tensor(
        [[[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]], [[[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]]],
    ),
    "1.bias": torch.zeros(2),
}


def images() -> Tensor:
    return torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


def moved(model: ResNet) -> ResNet:
    model(images())  # changes the running statistics
    return model


def refused(path: Path, content: dict[str, Any]) -> str:
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"x\.pth: ") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def vissl(state: dict[str, Any], prefix: str = "_feature_blocks.") -> dict[str, Any]:
    heads = {"0.projection_head.0.weight": torch.zeros(2, 2), "0.prototypes0.weight": torch.zeros(3, 2)}
    inner = {"model": {"trunk": prefixed(state, prefix), "heads": heads}, "meters": {}}
    return {
        "phase_idx": 3,
        "classy_state_dict": {"train": True, "base_model": inner, "optimizer": {"state": {}}},
        "loss": {"local_memory_embeddings": torch.zeros(4, 2)},
    }


@pytest.mark.parametrize("prefix", ["_feature_blocks.", "base_model._feature_blocks."])
@pytest.mark.parametrize(
    "make",
    [
        lambda: resnet50(width=0.375),
        lambda: resnet50(width=0.25, in_channels=1),
        lambda: resnet18(sobel=True, width=0.25),
    ],
    ids=["half", "grey", "sobel"],
)
def test_vissl(tmp_path: Path, make: Callable[[], ResNet], prefix: str) -> None:
    model = make()
    torch.save(vissl(model.state_dict(), prefix), tmp_path / "x.torch")
    again, report = load_backbone(tmp_path / "x.torch")
    assert architecture_of(again) == architecture_of(model)
    assert (report.family, report.matched) == ("vissl", len(model.state_dict()))
    assert report.dropped == ("heads.0.projection_head.0.weight", "heads.0.prototypes0.weight")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_vissl_converted(tmp_path: Path) -> None:
    model = resnet18(width=0.25)
    torch.save({"epoch": 1, "model_state_dict": prefixed(model.state_dict(), "_feature_blocks.")}, tmp_path / "x.torch")
    assert load_backbone(tmp_path / "x.torch")[1].matched == len(model.state_dict())
    lost = prefixed(model.state_dict(), "_feature_blocks.")
    del lost["_feature_blocks.layer2.1.conv1.weight"]
    assert "1 missing (layer2.1.conv1.weight)" in refused(tmp_path / "x.pth", vissl(lost, ""))


LIGHTLY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "backbone alone": lambda state: state,
    "tutorials": lambda state: {"resnet18_parameters": state},
    "module": lambda state: prefixed(state, "backbone.") | {"projection_head.layers.0.weight": torch.zeros(2, 2)},
    "lightning": lambda state: {
        "epoch": 1,
        "pytorch-lightning_version": "2.0",
        "state_dict": prefixed(state, "backbone.")
        | prefixed(state, "backbone_momentum.")
        | {"projection_head.layers.0.weight": torch.zeros(2, 2), "prototypes.heads.0.weight": torch.zeros(2, 2)},
    },
}


def sequential(net: ResNet, *between: nn.Module) -> nn.Sequential:
    """`nn.Sequential(*list(resnet.children())[:-1])` of a torchvision ResNet; its children 2 and 3 are `between`."""
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    return nn.Sequential(net.conv1, net.bn1, *between, *stages, nn.AdaptiveAvgPool2d(1))


@pytest.mark.parametrize("form", LIGHTLY)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_lightly_sequential(tmp_path: Path, form: str, stem: Any) -> None:
    net = moved(resnet18(width=0.25, stem=stem))
    theirs = sequential(net, nn.ReLU(), net.maxpool)
    torch.save(LIGHTLY[form](theirs.state_dict()), tmp_path / "x.pth")
    again, report = load_backbone(tmp_path / "x.pth")
    assert (report.family, report.arch, again.stem) == ("lightly", "resnet18", stem)
    assert report.matched == len(theirs.state_dict())
    assert all(name.startswith(("projection_head", "prototypes", "backbone_momentum")) for name in report.dropped)
    torch.testing.assert_close(again.eval()(images()), theirs.eval()(images()).flatten(1))


def test_lightly_names_are_positions_of_torchvisions_children() -> None:
    with torch.device("meta"):
        theirs = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
    net = resnet18(width=0.25)
    assert list(theirs.state_dict()) == list(sequential(net, nn.ReLU(), net.maxpool).state_dict())


def test_a_sequential_of_other_layers_is_refused(tmp_path: Path) -> None:
    net = resnet18(width=0.25)
    assert "stages at [2, 3, 4, 5]" in refused(tmp_path / "x.pth", sequential(net).state_dict())
    head = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert "no ResNet found" in refused(tmp_path / "x.pth", head.state_dict())
    whole = sequential(net, nn.ReLU(), net.maxpool).state_dict()
    lost = {key: value for key, value in whole.items() if not key.startswith("1.")}
    assert "missing (bn1.bias" in refused(tmp_path / "x.pth", lost)


SOBEL_FILES: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "mmselfsup 0": lambda state, sobel: {
        "meta": {},
        "state_dict": prefixed(sobel, "sobel_layer.sobel.")
        | prefixed(state, "backbone.")
        | {"head.fc_cls.weight": torch.zeros(2, 2)},
    },
    "mmselfsup 1": lambda state, sobel: {
        "meta": {},
        "state_dict": prefixed(state | prefixed(sobel, "sobel_layer.sobel."), "backbone."),
    },
    "deepcluster's names": lambda state, sobel: {"state_dict": prefixed(state | prefixed(sobel, "sobel."), "module.")},
}


@pytest.mark.parametrize("form", SOBEL_FILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sobel_files(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    model = moved(resnet18(sobel=True, width=0.25))
    filters = {key: value.to(dtype) for key, value in SOBEL.items()}
    torch.save(SOBEL_FILES[form](model.state_dict(), filters), tmp_path / "x.pth")
    again, report = load_backbone(tmp_path / "x.pth")
    assert architecture_of(again)["sobel"]
    assert sum("sobel" in name for name in report.dropped) == 4
    torch.testing.assert_close(again.eval()(images()), model.eval()(images()), rtol=0, atol=0)
    # The oracle runs the file's own two convolutions before a two-channel network with the file's weights.
    grey = nn.functional.conv2d(images(), SOBEL["0.weight"], SOBEL["0.bias"])
    edges = nn.functional.conv2d(grey, SOBEL["1.weight"], SOBEL["1.bias"], padding=1)
    plain = ResNet("resnet18", width=0.25, in_channels=2).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(images()), plain(edges))


@pytest.mark.parametrize("form", SOBEL_FILES)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("0.weight", torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)),  # luma
        ("0.bias", torch.tensor([0.5])),
        ("1.weight", SOBEL["1.weight"].flip(0)),  # y before x
        ("1.weight", SOBEL["1.weight"] / 8),
        (
            "1.weight",
            torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)),
        ),  # overwritten by an initialiser
        ("1.weight", torch.zeros(2, 1, 5, 5)),
        ("2.weight", torch.zeros(2)),
    ],
)
def test_another_filter_is_refused_by_name(tmp_path: Path, form: str, key: str, value: Tensor) -> None:
    state = resnet18(sobel=True, width=0.25).state_dict()
    said = refused(tmp_path / "x.pth", SOBEL_FILES[form](state, SOBEL | {key: value}))
    assert f"sobel.{key} is not DeepCluster's Sobel filter" in said


def test_a_filter_before_three_channels_is_refused(tmp_path: Path) -> None:
    state = resnet18(width=0.25).state_dict()
    said = refused(tmp_path / "x.pth", SOBEL_FILES["mmselfsup 0"](state, SOBEL))
    assert "two channels before conv1.weight, which is (16, 3, 7, 7)" in said


@pytest.mark.parametrize("wrap", ["features.module.", "features.", "module.features."])
def test_alexnet_and_vgg_of_2018_are_refused_by_name(tmp_path: Path, wrap: str) -> None:
    state = {
        f"{wrap}0.weight": torch.zeros(96, 2, 11, 11),
        f"{wrap}0.bias": torch.zeros(96),
        "classifier.1.weight": torch.zeros(4, 4),
        "top_layer.weight": torch.zeros(10, 4),
        **prefixed(SOBEL, "sobel."),
    }
    said = refused(tmp_path / "x.pth", {"epoch": 1, "arch": "alexnet", "state_dict": state, "optimizer": {}})
    assert "AlexNet or VGG" in said
    assert "DeepCluster code of 2018" in said


def test_models_that_detectron2_trained_are_refused(tmp_path: Path) -> None:
    """Their stride may be on the 1x1 convolution, which no tensor shows."""
    state = {"backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7), "backbone.res2.0.conv1.weight": torch.zeros(1)}
    assert "no ResNet found" in refused(tmp_path / "x.pth", {"model": state})
