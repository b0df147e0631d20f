"""Detection and segmentation by torchvision, on a GPU: training and scores of a few steps, as on the CPU."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import detect.cli
import detect.data
import pytest
import segment.cli
import segment.data
import segment.torchvision_engine as segment_engine
from pretend_cuda.device import pretended
from sobel_resnet import ResNet, save_backbone

STEPS = 2
APPS = {"coco": detect.cli, "voc": segment.cli, "cityscapes": segment.cli}
SCALES = {"coco": "0.05", "voc": "0.125", "cityscapes": "0.0625"}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a thin backbone; "drawn images" are four of 64 pixels here."""
    folder = tmp_path_factory.mktemp("transfer")
    save_backbone(ResNet("resnet18", stem="cifar", width=0.0625, seed=1), folder / "thin.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for data in (detect.data, segment.data):
            patch.setattr(data, "DRAWN", {"n_train": 4, "n_val": 2, "size": 64})
        halfway = {name: replace(one, every=1) for name, one in segment_engine.PUBLISHED.items()}
        patch.setattr(segment_engine, "PUBLISHED", halfway)
        yield folder


@pytest.mark.parametrize("protocol", APPS)
def test_figures_are_the_cpu_s(protocol: str, place: Path) -> None:
    expected = run("cpu", protocol, place)
    with pretended() as cuda, cuda.watched() as log:
        got = run("cuda", protocol, place)
    assert log.launches["convolution_backward"] > 0  # it was not the CPU's after all
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if name not in ("images_per_s", "wall_s"):
                assert mine[name] == pytest.approx(value, rel=1e-3, abs=1e-3), f"{name} after {theirs['step']} steps"


def run(device: str, protocol: str, place: Path) -> list[dict[str, Any]]:
    out = place / f"{protocol}-{device}"
    fixed = ("--engine", "torchvision", "--weights", "thin.safetensors", "--batch", "2", "--scale", SCALES[protocol])
    more = ("--iterations", str(STEPS), "--workers", "0", "--device", device, "--quiet", "--out", str(out))
    assert APPS[protocol].main([protocol, *fixed, *more]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
