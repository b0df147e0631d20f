"""What follows from other settings: recipe from the machine, learning rate from the batch, epochs from steps."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pretrain import cli
from pretrain.cli import main
from pretrain.recipe_files import recipe_for
from pretrain.rules import follow, rates_of
from pretrain.settings import METHODS, OdcSettings
from small_run import SMALL, lines

THIN = ["--width", "0.125", "--k", "6", "--max-steps", "1", "--knn-every", "0", "--no-report", "--workers", "0"]


def config_of(out: Path, *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--out", str(out)]) == 0
    return tomllib.loads((out / "config.toml").read_text())


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    from indexed_images import export_shapes

    return str(export_shapes(tmp_path / "photos", "imagenet", n_train=60, n_val=24, size=40))


@pytest.mark.parametrize("method", METHODS)
def test_photographs_have_a_recipe_for_each_machine(method: str) -> None:
    assert recipe_for(method, "folder:photos", lambda: True) == f"{method}_photos"
    assert recipe_for(method, "folder:photos", lambda: False) == f"{method}_photos_cpu"
    for data in (None, "shapes", "npz:a.npz", "digits"):
        assert recipe_for(method, data, lambda: pytest.fail("nobody needs to know")) == f"{method}_shapes"


def test_device_decides_before_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_gpu in (False, True):
        monkeypatch.setattr(cli, "_has_gpu", lambda has_gpu=has_gpu: has_gpu)
        data = ["--data", "folder:photos"]
        assert cli._default_recipe("odc", [*data, "--device", "cuda"]) == "odc_photos"
        assert cli._default_recipe("odc", [*data, "--device=cpu"]) == "odc_photos_cpu"
        assert cli._default_recipe("odc", [*data, "--device", "auto"]) == (
            "odc_photos" if has_gpu else "odc_photos_cpu"
        )


def test_a_photograph_run_without_gpu(tmp_path: Path, photographs: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path / "run", "odc", "--data", photographs, "--device", "cpu", *THIN)
    assert (config["arch"], config["resident"], config["batch"]) == ("resnet18", "64", 60)
    assert "steps" not in config  # the number of images is known now
    assert config["epochs"] == 2400  # the steps of the recipe, one an epoch: there are 60 images
    assert "on a CPU: a small network" in capsys.readouterr().out
    given = config_of(tmp_path / "other", "odc", "--data", photographs, "--device", "cpu", *THIN, "--epochs", "7")
    assert given["epochs"] == 7


@pytest.mark.parametrize(("steps", "batch", "epochs"), [(8, 30, 2), (1, 30, 1), (9, 40, 3)])
def test_steps_become_whole_epochs(tmp_path: Path, steps: int, batch: int, epochs: int) -> None:
    small = [*SMALL[: SMALL.index("--epochs")], *SMALL[SMALL.index("--epochs") + 2 :]]  # 120 images
    out = tmp_path / "run"
    config = config_of(out, "odc", *small, "--steps", str(steps), "--batch", str(batch))
    assert config["epochs"] == epochs
    assert lines(out)[-1]["step"] == epochs * math.ceil(120 / batch)


@pytest.mark.parametrize(
    ("more", "lr"),
    [
        ([], 0.03 * 30 / 64),
        (["--optimizer", "adam"], 0.03),  # the recipe's rate was not chosen for it
        (["--lr", "0.02"], 0.02),
        (["--warmup-lr", "0"], 0.03 * 30 / 64),
        (["--batch", "4096"], 0.03 * 120 / 64),  # there are 120 images
        (["--batch", "64"], 0.03),
    ],
)
def test_the_learning_rate_follows_the_batch(
    tmp_path: Path, more: list[str], lr: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe odc_shapes has 0.03 for batches of 64; these runs have 30."""
    config = config_of(tmp_path / "run", "odc", *SMALL, "--max-steps", "1", *more)
    assert config["lr"] == pytest.approx(lr, rel=1e-3)
    assert ("is for batches of 64" in capsys.readouterr().out) == (lr not in (0.02, 0.03))
    assert config["batch"] == min(120, int(more[-1]) if "--batch" in more else config["batch"])


def test_adam_scales_with_the_square_root() -> None:
    adam = OdcSettings(optimizer="adam", lr=0.01, final_lr=0.001, batch=64)
    scaled, said = follow(OdcSettings(**{**adam.model_dump(), "batch": 16}), 1000, rates_of(adam, adam, {"final_lr"}))
    assert (scaled.lr, scaled.final_lr) == (0.005, 0.001)
    assert len(said) == 1


def test_epochs_go_before_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path / "run", "odc", *SMALL, "--max-steps", "1", "--steps", "400")  # SMALL has --epochs 2
    assert config["epochs"] == 2
    recipe = tmp_path / "both.toml"
    recipe.write_text('method = "odc"\nepochs = 3\nsteps = 400\n')
    assert main(["--recipe", str(recipe)]) == 2
    assert "gives epochs and steps" in capsys.readouterr().err
    for option in ("--batch", "--steps"):
        assert main(["odc", option, "1" + "0" * 400]) == 2


def test_a_run_of_a_config_keeps_its_rate(tmp_path: Path) -> None:
    config_of(tmp_path / "run", "odc", *SMALL, "--max-steps", "1")
    again = config_of(tmp_path / "again", "--recipe", str(tmp_path / "run" / "config.toml"))
    assert again["lr"] == pytest.approx(0.03 * 30 / 64, rel=1e-3)
