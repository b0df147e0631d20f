"""detect and segment with torchvision: whole runs of six steps, as a user starts and resumes them."""

import contextlib
import io
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import detect.cli
import detect.data
import detect.torchvision_engine as detect_engine
import numpy as np
import pytest
import segment.cli
import segment.data
import segment.torchvision_engine as segment_engine
import torch
from forks import forked_ranks
from indexed_images import export_shapes
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from segment.torchvision_data import Maps
from segment.torchvision_model import FCN, predict
from sobel_resnet import ResNet, save_backbone
from torch import Tensor

ENGINES: dict[str, ModuleType] = {"detect": detect_engine, "segment": segment_engine}
APPS = {"coco": "detect", "voc": "segment", "cityscapes": "segment"}
COLUMNS = {
    "coco": ["box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75"],
    "voc": ["mIoU"],
    "cityscapes": ["mIoU"],
}
STEPS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a thin backbone; "drawn images" are eight of 64 pixels here."""
    folder = tmp_path_factory.mktemp("transfer")
    save_backbone(ResNet("resnet18", stem="cifar", width=0.25, seed=1), folder / "thin.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for data in (detect.data, segment.data):
            patch.setattr(data, "DRAWN", {"n_train": 8, "n_val": 3, "size": 64})
        halfway = {name: replace(one, every=STEPS // 2) for name, one in segment_engine.PUBLISHED.items()}
        patch.setattr(segment_engine, "PUBLISHED", halfway)  # scores where the cut is, too
        yield folder


def command(protocol: str, *more: str) -> int:
    app = {"detect": detect.cli, "segment": segment.cli}[APPS[protocol]]
    scale = {"coco": "0.05", "voc": "0.125", "cityscapes": "0.0625"}[protocol]
    fixed = ("--engine", "torchvision", "--weights", "thin.safetensors", "--batch", "2", "--scale", scale)
    code: int = app.main([protocol, *fixed, "--iterations", str(STEPS), "--device", "cpu", "--quiet", *more])
    return code


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole_run(place: Path) -> Callable[[str], Path]:
    """A finished run of a protocol, made when first asked for."""

    def get(protocol: str) -> Path:
        run = place / f"{protocol}-whole"
        if not run.exists():
            assert command(protocol, "--out", str(run)) == 0
        return run

    return get


@pytest.mark.parametrize("protocol", COLUMNS)
def test_a_run_ends_in_results(whole_run: Callable[[str], Path], protocol: str) -> None:
    run = whole_run(protocol)
    results, lines = json.loads((run / "results.json").read_text()), metrics_of(run)
    assert results["columns"] == list(results["metrics"]) == list(results["untrained"]) == COLUMNS[protocol]
    assert all(0 <= value <= 100 for value in results["metrics"].values())
    assert results["engine"] == "torchvision"
    assert {"weights", "weights_file", "data", "model", "changes"} <= results.keys()
    assert f"{STEPS} iterations instead of" in " ".join(results["changes"])
    assert [math.isfinite(line["loss"]) for line in lines if "loss" in line] == [True]
    assert lines[-1]["final"]
    assert (run / "report.html").exists()
    if protocol != "coco":
        values = results["classes"].values()
        assert results["metrics"]["mIoU"] == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize("protocol", ["coco", "voc"])
def test_a_run_that_was_cut_off_goes_on_as_if_not(
    whole_run: Callable[[str], Path], place: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = whole_run(protocol), place / f"{protocol}-cut"
    engine = ENGINES[APPS[protocol]]
    name = {"coco": "loss_of", "voc": "fcn_loss"}[protocol]
    original, steps = getattr(engine, name), []

    def loss(*args: Any, **more: Any) -> Tensor:
        steps.append(None)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        result: Tensor = original(*args, **more)
        return result

    monkeypatch.setattr(engine, name, loss)
    assert command(protocol, "--out", str(cut)) == 130
    assert len(steps) == 3
    app = {"detect": detect.cli, "segment": segment.cli}[APPS[protocol]]
    assert app.main(["resume", str(cut)]) == 0
    assert len(steps) == STEPS

    one, other = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, cut))
    assert one["step"] == other["step"] == STEPS
    assert all(torch.equal(tensor, other["network"][key]) for key, tensor in one["network"].items())
    lines = [[without_times(line) for line in metrics_of(run)] for run in (whole, cut)]
    assert lines[0] == lines[1]
    scored = [line["step"] for line in lines[0] if COLUMNS[protocol][0] in line and not line.get("final")]
    assert scored == ([0, STEPS // 2, STEPS] if protocol == "voc" else [0, STEPS])


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("images_per_s", "wall_s")}


def test_a_broken_checkpoint_gives_way_to_the_one_before(whole_run: Callable[[str], Path], capsys: Any) -> None:
    run = whole_run("cityscapes")
    (run / "results.json").unlink()
    (run / "checkpoint.pt").write_bytes(b"broken")
    assert segment.cli.main(["resume", str(run)]) == 0
    assert (run / "results.json").exists()


@pytest.mark.parametrize("protocol", ["coco", "voc"])
def test_a_loss_that_is_not_finite_ends_the_run(
    place: Path, protocol: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"coco": "loss_of", "voc": "fcn_loss"}[protocol]
    monkeypatch.setattr(ENGINES[APPS[protocol]], name, lambda *_, **__: torch.tensor(math.nan, requires_grad=True))
    assert command(protocol, "--out", str(place / f"{protocol}-nan")) == 3
    assert "the loss is nan at iteration 1" in capsys.readouterr().err


def test_the_c4_model_is_refused_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("coco", "--model", "c4", "--out", str(place / "c4")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (place / "c4").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unknown_id_in_a_mask_names_the_file(
    place: Path, tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    export_shapes(tmp_path / "city", "cityscapes", n_train=2, n_val=1, size=32)
    mask = next((tmp_path / "city" / "gtFine" / "val").glob("*/*labelTrainIds.png"))
    with Image.open(mask) as image:
        shape = np.array(image)
    Image.fromarray(np.full_like(shape, 77)).save(mask)
    made = command("cityscapes", "--data", str(tmp_path / "city"), "--workers", workers, "--out", str(tmp_path / "run"))
    error = capsys.readouterr().err
    assert made == 2
    assert error.count("\n") == 1
    assert mask.name in error
    assert "id 77" in error


def test_the_optimiser_is_the_published_one(whole_run: Callable[[str], Path]) -> None:
    for protocol, decay in (("coco", 1e-4), ("voc", 5e-4)):
        [group] = torch.load(whole_run(protocol) / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, decay, False)


def test_results_are_what_pycocotools_says(whole_run: Callable[[str], Path], place: Path) -> None:
    run = whole_run("coco")
    said = json.loads((run / "results.json").read_text())["metrics"]
    [drawn] = place.glob("runs/drawn/coco-*")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(drawn / "annotations" / "instances_val2017.json"))
        for kind, name in (("bbox", "box"), ("segm", "mask")):
            evaluator = COCOeval(truth, truth.loadRes(str(run / f"predictions.{kind}.json")), kind)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            expected = [100 * value for value in evaluator.stats[:3]]
            assert [said[f"{name} {column}"] for column in ("AP", "AP50", "AP75")] == pytest.approx(expected)


def naive_miou(run: Path, files: list[tuple[Path, Path]], n_classes: int) -> float:
    """Of a finished run of voc: counted mask by mask, class by class."""
    model = FCN(ResNet("resnet18", stem="cifar", width=0.25), n_classes, align_corners=False, seed=0)
    model.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["network"])
    model.eval()
    sizes = segment_engine.scale_sizes(segment_engine.PUBLISHED["voc"].sizes, 0.125)
    held_out = Maps(files, n_classes, sizes)
    hits, either = [0] * n_classes, [0] * n_classes
    for index, (_, mask) in enumerate(files):
        with Image.open(mask) as image:
            truth = np.array(image)
        with torch.no_grad():
            found = predict(model, held_out[index, index][0], truth.shape, sizes).numpy()
        for k in range(n_classes):
            t, f = (truth == k), (found == k) & (truth != 255)
            hits[k] += int((t & f).sum())
            either[k] += int((t | f).sum())
    ious = [100 * h / e for h, e in zip(hits, either, strict=True) if e]
    return sum(ious) / len(ious)


def test_the_score_of_a_run_is_at_the_size_of_the_masks(whole_run: Callable[[str], Path], place: Path) -> None:
    run = whole_run("voc")
    said = json.loads((run / "results.json").read_text())["metrics"]["mIoU"]
    [drawn] = place.glob("runs/drawn/voc-*")
    assert said == pytest.approx(naive_miou(run, segment_engine.files(drawn / "VOC2012", "voc", "val"), 13))


def test_two_processes_score_one_network_on_all_images(place: Path, tmp_path: Path) -> None:
    """21 classes here: the folder is given, so it is read as VOC."""
    export_shapes(tmp_path / "voc", "voc", n_train=4, n_val=3, size=32)
    run = tmp_path / "run"
    more = [
        "--engine",
        "torchvision",
        "--weights",
        "thin.safetensors",
        "--data",
        str(tmp_path / "voc"),
        "--workers",
        "0",
    ]
    size = ["--batch", "4", "--iterations", "2", "--scale", "0.125", "--device", "cpu", "--out", str(run), "--quiet"]

    def work() -> int:
        os.chdir(place)
        return segment.cli.main(["voc", *more, *size])

    done = forked_ranks(2, work, tmp_path / "said")
    assert done.codes == [0, 0], done.errors
    results = json.loads((run / "results.json").read_text())
    assert "batch norm of each process by itself, on CPUs" in results["changes"]
    files = segment_engine.files(tmp_path / "voc" / "VOC2012", "voc", "val")
    assert results["metrics"]["mIoU"] == pytest.approx(naive_miou(run, files, 21))
