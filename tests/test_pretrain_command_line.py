"""Bad input ends in one clear line and exit code 2, and nothing half-written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from pretrain.cli import main
from small_run import SMALL


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 2) -> str:
    """Run the command, check that it ends with `code` and one line on stderr; return the line."""
    assert main([str(a) for a in arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith("pretrain: ")
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ocd"], "did you mean 'odc'?"),
        (["deepcluster2"], "did you mean 'deepcluster'?"),
        (["odc", "--epoch", "3"], "unknown option '--epoch', did you mean '--epochs'?"),
        (["odc", "--epochs", "ten"], "epochs should be a valid integer"),
        (["odc", "--epochs", "0"], "epochs should be greater than 0, got '0'"),
        (["odc", "--jitter", "0", "0", "0", "3"], "--jitter should be less than or equal to 0.5, got '3'"),
        (["odc", "--std", "0", "0", "0"], "--std should be greater than 0"),
        (["odc", "--eval-size", "100000"], "--eval-size should be less than or equal to 4096"),
        (["odc", "--width", "0.0001"], "--width 0.0001: width must leave at least one channel"),
        (["odc", "--device", "tpu"], "'auto', 'cpu' or 'cuda'"),
        (["odc", "--crops", "2x"], "expected NxSIZE@LOW-HIGH"),
        (["odc", "--lr"], "--lr: expected one argument"),
        (["odc", "--data", "shape"], "shapes"),
        (["odc", "--warmup-epochs", "20"], "--warmup-epochs 20 leaves nothing of --epochs 13"),
        (["swav", "--crops", "1x24"], "gives 1 crop(s) of an image"),
        (["deepcluster_v2", "--crops-for-codes", "3"], "needs at least 3"),
        (["swav", "--weights", "nowhere.pth"], "--weights nowhere.pth: no such file"),
        (["deepcluster", "--optimizer", "lamb"], "'sgd', 'larc', 'lars'"),
        (["odc", "--data", "folder:nowhere"], "nowhere"),
        (["odc", "--data", "shapes:n=1"], "needs at least 4"),
        (["odc", "--data", "shapes:n=50", "--k", "60"], "--k 60 is more than the 50 images"),
        (["odc", "--micro-batch", "1"], "--micro-batch 1 cuts the 64 images of a step into parts of one"),
        (["odc", "--batch", "33", "--micro-batch", "2"], "take 3 or more"),
        (["odc", "--resident", "4"], "a size from 8 to 4096 pixels"),
        (["--recipe", "odc_shape"], "did you mean 'odc_shapes'?"),
        (["--recipe"], "needs a name"),
        (["resume"], "resume needs the run folder"),
        (["--data", "shapes"], "the command comes first"),
        (["compare"], "needs run folders"),
        (["compare", "nowhere"], "nowhere: not a run"),
        (["recipes", "odc_shapes"], "recipes takes no arguments"),
        (["resume", "nowhere"], "nowhere: not a run"),
    ],
)
def test_one_clear_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_empty_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "photos" in fails(capsys, "odc", "--data", f"folder:{tmp_path / 'photos'}")


def test_one_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert "1 image(s)" in fails(capsys, "odc", "--data", f"folder:{tmp_path}")


def test_out_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    # /proc refuses new folders even to root, who may write to a read-only folder of anyone else
    assert "cannot write" in fails(capsys, "odc", *SMALL, "--out", "/proc/run")


def test_out_that_is_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('method = "odc"\n')
    assert "there is a run already" in fails(capsys, "odc", *SMALL, "--out", tmp_path)


def test_unknown_key_in_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('method = "odc"\nepoch = 3\n')
    assert "unknown key 'epoch', did you mean 'epochs'?" in fails(capsys, "--recipe", recipe)


def test_too_many_corrupt_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        write_jpeg(photos / f"{i}.jpg", truncated=i % 3 == 0)
    error = fails(capsys, "odc", *SMALL, "--data", f"folder:{photos}", "--out", tmp_path / "run", "--k", "2")
    assert "2 of 12 images are corrupt" in error
    assert ".jpg" in error


def write_jpeg(path: Path, *, truncated: bool) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((48, 40), 60).convert("RGB").save(buffer, "JPEG")
    content = buffer.getvalue()
    path.write_bytes(content[: len(content) // 2] if truncated else content)


def test_help_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main([]) == 2  # the same text, and an exit code that a script notices
    assert capsys.readouterr().out == text
    assert "resume RUN" in text
    assert main(["--version"]) == 0
    assert "torch 2." in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["odc", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--memory-momentum" in text
    assert "default: 0.5" in text
    with pytest.raises(SystemExit) as stop:
        main(["resume", "--help"])
    assert stop.value.code == 0
    assert "--workers" in capsys.readouterr().out
    assert main(["compare", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: pretrain compare RUN ...\n")
    assert main(["recipes"]) == 0
    assert "odc_resnet50_8xb64-steplr-440e_in1k" in capsys.readouterr().out
