"""Saving and loading backbones, files of projects that use torchvision's keys, and files that are refused."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from sobel_resnet import ResNet, load_backbone, resnet18, resnet34, resnet50, save_backbone
from torch import Tensor


def prefixed(model: ResNet, prefix: str, **others: Any) -> dict[str, Any]:
    return {prefix + key: value for key, value in model.state_dict().items()} | others


def assert_same(a: ResNet, b: ResNet) -> None:
    for (name, x), (other, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(x, y), name
    x = torch.randn(1, a.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(a.eval()(x), b.eval()(x))


@pytest.mark.parametrize(
    "options",
    [{}, {"sobel": True}, {"stem": "cifar", "width": 0.25}, {"in_channels": 2}, {"in_channels": 1, "width": 0.3}],
)
def test_our_own_files_round_trip(tmp_path: Path, options: dict[str, Any]) -> None:
    model = resnet18(seed=5, **options)
    model(
        torch.randn(4, model.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    )  # changes the BN statistics
    save_backbone(model, tmp_path / "b.safetensors", {"method": "odc"})
    again, report = load_backbone(tmp_path / "b.safetensors")
    assert_same(model, again)
    assert (again.stem, again.width, again.sobel is None) == (model.stem, model.width, model.sobel is None)
    assert (report.arch, report.family, report.dropped) == ("resnet18", "sobel-resnet", ())
    assert report.matched == len(model.state_dict())
    assert report.metadata["method"] == "odc"
    assert os.listdir(tmp_path) == ["b.safetensors"]


def test_other_readers_of_safetensors_can_use_our_file(tmp_path: Path) -> None:
    save_backbone(resnet50(), tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        theirs = torchvision.models.resnet50()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert theirs.load_state_dict(state, strict=False).missing_keys == ["fc.weight", "fc.bias"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.safetensors"
    save_backbone(resnet18(width=0.25), path)
    old = path.read_bytes()

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_backbone(resnet18(width=0.25, seed=1), path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["b.safetensors"]


FAMILIES: dict[str, Callable[[ResNet], dict[str, Any]]] = {
    "torchvision": lambda m: prefixed(m, "", **{"fc.weight": torch.zeros(10, 2), "fc.bias": torch.zeros(10)}),
    "swav": lambda m: prefixed(
        m,
        "module.",
        **{"module.projection_head.0.weight": torch.zeros(3, 3), "module.prototypes.weight": torch.zeros(4, 3)},
    ),
    "swav training": lambda m: {"epoch": 3, "state_dict": prefixed(m, "module."), "optimizer": {"state": {}}},
    "openmmlab": lambda m: {
        "meta": {"epoch": 1},
        "state_dict": prefixed(m, "backbone.", **{"neck.fc0.weight": torch.zeros(2, 2)}),
    },
    "openmmlab extracted": lambda m: {"state_dict": prefixed(m, ""), "author": "someone"},
    "solo": lambda m: {
        "pytorch-lightning_version": "1.6",
        "state_dict": prefixed(m, "backbone.", **{"projector.0.weight": torch.zeros(2, 2), "queue": torch.zeros(2)}),
    },
    "solo, old": lambda m: {"state_dict": prefixed(m, "encoder.")},
    "model in a container": lambda m: {"model": {"state_dict": prefixed(m, "module.backbone.")}},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(tmp_path: Path, family: str, legacy: bool) -> None:
    model = resnet18(sobel=True, width=0.5, stem="cifar", seed=2)
    content = FAMILIES[family](model)
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    loaded, report = load_backbone(tmp_path / "x.pth")
    assert_same(model, loaded)
    assert report.matched == len(model.state_dict())
    while isinstance(inner := content.get("state_dict", content.get("model")), dict):
        content = inner
    assert len(report.dropped) == len(content) - report.matched
    assert report.family in {
        "torchvision",
        "swav",
        "openmmlab",
        "lightning",
        "prefix encoder.",
        "prefix module.backbone.",
    }
    assert str(report.matched) in str(report)


@pytest.mark.parametrize("make", [resnet34, resnet50])
def test_depth_is_read_from_the_tensors(tmp_path: Path, make: Callable[..., ResNet]) -> None:
    model = make(width=0.25, seed=1)
    save_file(model.state_dict(), tmp_path / "x.safetensors")  # no metadata of ours
    loaded, report = load_backbone(tmp_path / "x.safetensors")
    assert report.arch == model.arch
    assert_same(model, loaded)


def test_files_older_than_num_batches_tracked_load(tmp_path: Path) -> None:
    model = resnet18(width=0.25)
    old = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    torch.save(old, tmp_path / "x.pth")
    assert_same(model, load_backbone(tmp_path / "x.pth")[0])


def refused(tmp_path: Path, state: dict[str, Any]) -> str:
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: ") as caught:
        load_backbone(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mismatches_are_named(tmp_path: Path) -> None:
    state = resnet18(width=0.25).state_dict()

    def without(name: str) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if key != name}

    assert "1 missing (layer2.0.bn1.weight)" in refused(tmp_path, without("layer2.0.bn1.weight"))
    assert "1 unexpected (layer1.0.se.weight)" in refused(tmp_path, state | {"layer1.0.se.weight": torch.zeros(1)})
    assert "1 unexpected (conv2.weight)" in refused(tmp_path, state | {"conv2.weight": torch.zeros(1)})
    assert "conv1.weight (16, 16, 1, 1) instead of" in refused(
        tmp_path, state | {"layer1.0.conv1.weight": torch.zeros(16, 16, 1, 1)}
    )
    assert "(2, 2, 2, 3)" in refused(tmp_path, state | {"layer4.2.conv1.weight": torch.zeros(1)})
    assert "conv1.weight must be" in refused(tmp_path, state | {"conv1.weight": torch.zeros(16, 3, 5, 5)})
    assert "no ResNet found" in refused(tmp_path, {"features.0.weight": torch.zeros(1)})
    assert "no tensors" in refused(tmp_path, {"state_dict": {}})
    twice = prefixed(resnet18(width=0.25), "backbone.") | prefixed(resnet18(width=0.25, seed=1), "encoder.")
    assert "several ResNets" in refused(tmp_path, twice)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle", "renamed"])
def test_a_pickle_that_wants_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    content = resnet18(width=0.25).state_dict() | {"extra": Canary(tmp_path / "canary")}
    path = tmp_path / ("x.safetensors" if how == "renamed" else "x.pth")
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(ValueError, match="refused") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 40, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / "x"
    model = resnet18(width=0.25)
    if kind == "safetensors":
        save_backbone(model, path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"not a readable weights file|damaged") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


def test_other_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_backbone(tmp_path / "none.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="got a Tensor"):
        load_backbone(tmp_path / "tensor.pth")
    with pytest.raises(TypeError, match="unwrap"):
        save_backbone(torch.nn.Linear(2, 2), tmp_path / "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="arch"):
        save_backbone(resnet18(width=0.25), tmp_path / "x", {"arch": "mine"})
    newer = {"sobel_resnet": "3", "arch": "resnet18"}
    save_file(resnet18(width=0.25).state_dict(), tmp_path / "new.safetensors", newer)
    with pytest.raises(ValueError, match="upgrade"):
        load_backbone(tmp_path / "new.safetensors")
