"""apps/classify as users run it, on a GPU: the same figures as on the CPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classify.cli import main
from pretend_cuda.device import pretended
from sobel_resnet import resnet18, save_backbone
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

COMMANDS: dict[str, list[str]] = {
    "all": ["--shots", "1", "2"],
    "linear": ["--epochs", "1", "--size", "16", "--resize", "20"],  # fresh crops
    "semi": ["--epochs", "1", "--fraction", "0.5", "--lr", "0.01", "--head-multiplier", "1", "--seeds", "0"],
}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_backbone(resnet18(stem="cifar", width=0.0625, seed=3), path)
    return path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_figures_are_the_cpu_s(command: str, weights: Path, tmp_path: Path) -> None:
    expected = run("cpu", command, weights, tmp_path)
    with pretended() as cuda, cuda.watched() as log:
        got = run("cuda", command, weights, tmp_path)
    assert log.launches["convolution"] > 0  # it was not the CPU's after all
    # of 24 images, one may fall on the other side
    compare(got, expected, at="results", within=100 / 24 + 1e-3)


def test_bfloat16(weights: Path, tmp_path: Path) -> None:
    dtypes = set()
    hook = register_module_forward_hook(
        lambda module, _, out: dtypes.add(out.dtype) if isinstance(module, nn.Conv2d) else None
    )
    try:
        with pretended():
            found = run("cuda", "knn", weights, tmp_path, "--precision", "bf16")
    finally:
        hook.remove()
    assert dtypes == {torch.bfloat16}
    assert 0 <= found["k"]["10"]["top1"] <= 100


def run(device: str, command: str, weights: Path, folder: Path, *more: str) -> Any:
    data = ("--data", "shapes:n=60,n_val=24", "--cache", "", "--workers", "0")
    out = folder / device
    options = [*data, "--weights", str(weights), "--out", str(out), "--device", device, "--quiet"]
    assert main([command, *options, *COMMANDS.get(command, []), *more]) == 0
    results = json.loads((out / "results.json").read_text())["results"]
    return results if command == "all" else results[command]


def compare(got: Any, expected: Any, *, at: str, within: float) -> None:
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), at
        for key, value in expected.items():
            compare(got[key], value, at=f"{at}.{key}", within=within)
    elif isinstance(expected, list):
        assert len(got) == len(expected), at
        for i, value in enumerate(expected):
            compare(got[i], value, at=f"{at}.{i}", within=within)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=within, nan_ok=True), at
    else:
        assert got == expected, at
