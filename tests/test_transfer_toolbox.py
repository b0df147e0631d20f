"""Detection and segmentation as users run them, on small drawn images and on the real bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sobel_resnet import FeatureMaps, ResNet, load_backbone, save_backbone

pytest.importorskip("mmdet", reason="needs the transfer group: uv run --group transfer pytest tests/test_transfer_*.py")

import detect.cli
import detect.data
import detect.toolbox
import segment.cli
import segment.data
import segment.toolbox

SHARED = Path(os.environ.get("CLUSTER_SSL_DATA", Path(__file__).parents[2] / "shared" / "data"))
DRAWN = {"n_train": 8, "n_val": 4, "size": 64}
FAST = ["--iterations", "4", "--batch", "2", "--workers", "0", "--quiet"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; drawn sets are small."""
    monkeypatch.chdir(tmp_path)
    for data in (detect.data, segment.data):
        monkeypatch.setattr(data, "DRAWN", DRAWN)
    small = {"samples": 8, "proposals": 20, "found": 10, "channels": 16, "scale": 0.08}
    for name, value in small.items():
        monkeypatch.setitem(detect.data.SMALL, name, value)
    return tmp_path


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., str]:
    def make(**architecture: Any) -> str:
        given = {"arch": "resnet18", "stem": "cifar", "width": 0.25} | architecture
        backbone = ResNet(**given, seed=1)
        for module in backbone.modules():  # statistics as after training, not 0 and 1
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        path = tmp_path / f"{'-'.join(map(str, given.values()))}.safetensors"
        save_backbone(backbone, path)
        return str(path)

    return make


APPS = {"detect": detect.cli.main, "segment": segment.cli.main}
ALL = [("detect", "voc", ["AP50"]), ("detect", "coco", list(detect.cli.BOXES_AND_MASKS)),
       ("segment", "voc", ["mIoU"]), ("segment", "cityscapes", ["mIoU"])]  # fmt: skip


@pytest.mark.parametrize(("app", "command", "columns", "sobel"), [(*case, i % 2 == 1) for i, case in enumerate(ALL)])
def test_a_protocol_runs_from_weights_to_report(
    app: str, command: str, columns: list[str], sobel: bool, place: Path, weights: Callable[..., str]
) -> None:
    out = place / "run"
    assert APPS[app]([command, "--weights", weights(sobel=sobel), "--out", str(out), *FAST]) == 0
    results = json.loads((out / "results.json").read_text())
    assert list(results["metrics"]) == columns
    assert all(0 <= value <= 100 for value in results["metrics"].values())
    assert set(columns) <= set(results["untrained"])
    assert any("batch 2" in change for change in results["changes"])
    losses = [
        line["loss"] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in line
    ]
    assert losses
    assert np.isfinite(losses).all()
    assert "data:image/jpeg" in (out / "report.html").read_text()


@pytest.mark.parametrize("model", ["c4"])
def test_mask_rcnn_c4(model: str, place: Path, weights: Callable[..., str]) -> None:
    assert detect.cli.main(["coco", "--model", model, "--weights", weights(), "--out", "run", *FAST]) == 0


@pytest.mark.parametrize("architecture", [{}, {"sobel": True}, {"stem": "imagenet"}, {"arch": "resnet50"}])
@pytest.mark.parametrize("app", ["detect", "segment"])
def test_the_toolbox_sees_our_features(app: str, architecture: dict[str, Any], weights: Callable[..., str]) -> None:
    """One image through the whole data path of the toolbox's model equals our backbone on the normalised image."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from steady_runs.benchmark import Weights

    file = weights(**architecture)
    ours = load_backbone(file)[0].eval()
    given = Weights(ours, file, "")
    if app == "detect":
        from mmdet.registry import MODELS

        config = Config.fromfile(detect.toolbox.CONFIGS / "mask_rcnn_r50_fpn_coco.py")
        detect.toolbox.fit_backbone(config, given, 0)
        init_default_scope("mmdet")
    else:
        from mmseg.registry import MODELS

        config = Config.fromfile(segment.toolbox.CONFIGS / segment.toolbox.CONFIG["voc"])
        segment.toolbox.fit_backbone(config, given, 0)
        init_default_scope("mmseg")
    model = MODELS.build(config.model)
    model.backbone.init_weights()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    rgb = (image.double() / 255 - mean) / std
    preprocessor = model.data_preprocessor
    bgr = image.flip(0).double()[None].flip(1)  # OpenCV reads BGR; the preprocessor turns it
    fed = (bgr - preprocessor.mean) / preprocessor.std
    # float64: of float32, sixteen blocks make 1e-4 out of a last bit of the input
    maps = model.double().eval().backbone(fed)
    wanted = FeatureMaps(ours, model.backbone.maps, 32 if app == "detect" else 8).double().eval()(rgb[None])
    for found, expected in zip(maps, wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_trained_detector_opens_in_the_toolbox(
    place: Path, weights: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """init_detector gives the same boxes as the run's own scoring, and pycocotools the same figures from the json."""
    make_small = detect.toolbox.make_small

    def keep_weak_predictions(config: Any) -> list[str]:
        changes = make_small(config)
        config.model.test_cfg.rcnn.score_thr = 0.001
        return changes

    monkeypatch.setattr(detect.toolbox, "make_small", keep_weak_predictions)
    from mmdet.apis import inference_detector, init_detector
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = Path(weights())
    argv = ["coco", "--weights", str(file), "--out", "run", "--iterations", "60", "--batch", "2", "--quiet"]
    assert detect.cli.main(argv) == 0
    file.unlink()  # the model is whole without it
    results = json.loads(Path("run/results.json").read_text())
    data = next(Path("runs/drawn").iterdir())
    truth = COCO(data / "annotations" / "instances_val2017.json")
    for kind in ("bbox", "segm"):
        score = COCOeval(truth, truth.loadRes(f"run/predictions.{kind}.json"), kind)
        score.evaluate()
        score.accumulate()
        score.summarize()
        column = {"bbox": "box", "segm": "mask"}[kind]
        for name, value in zip(("AP", "AP50", "AP75"), 100 * score.stats[:3], strict=True):
            assert results["metrics"][f"{column} {name}"] == pytest.approx(value, abs=0.051)  # the toolbox rounds

    model = init_detector("run/config.py", "run/model.pth", device="cpu")
    said = json.loads(Path("run/predictions.bbox.json").read_text())
    image = truth.loadImgs(truth.getImgIds())[0]
    found = inference_detector(model, str(data / "val2017" / image["file_name"])).pred_instances
    scores = sorted((one["score"] for one in said if one["image_id"] == image["id"]), reverse=True)
    assert sorted(found.scores.tolist(), reverse=True) == pytest.approx(scores, abs=1e-5)


def test_a_trained_segmenter_opens_in_the_toolbox(place: Path, weights: Callable[..., str]) -> None:
    from mmseg.apis import inference_model, init_model

    assert segment.cli.main(["voc", "--weights", weights(), "--out", "run", *FAST]) == 0
    model = init_model("run/config.py", "run/model.pth", device="cpu")
    image = next(next(Path("runs/drawn").iterdir()).glob("VOC2012/JPEGImages/*.jpg"))
    said = inference_model(model, str(image)).pred_sem_seg.data
    assert said.shape == (1, 64, 85)
    assert int(said.max()) <= 12


def test_a_torchvision_file_of_another_depth_trains(place: Path) -> None:
    """Weights of torchvision's layout, found from the tensors."""
    import torchvision

    torch.save(torchvision.models.resnet18(weights=None).state_dict(), "tv.pth")
    assert segment.cli.main(["voc", "--weights", "tv.pth", "--out", "run", *FAST]) == 0


def test_resume_after_a_stop(place: Path, weights: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    from steady_runs.benchmark.mmengine import _Watch

    after = _Watch.after_train_iter

    def stop(self: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.job.stop.asked = runner.iter == 1
        after(self, runner, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_Watch, "after_train_iter", stop)
        assert segment.cli.main(["voc", "--weights", weights(), "--out", "run", *FAST]) == 130
    assert segment.cli.main(["resume", "run"]) == 0
    steps = [json.loads(line).get("step") for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 4, 4, None]


@pytest.mark.parametrize("app", APPS)
def test_two_processes_share_a_run(app: str, place: Path, weights: Callable[..., str]) -> None:
    """--gpus starts torchrun; on CPUs it is gloo, and each process has its own batch norm (said in the results)."""
    drawn("voc")
    argv = ["voc", "--data", "data", "--weights", weights(), "--out", "run", "--scale", "0.1", "--gpus", "2"]
    argv += ["--device", "cpu", *FAST]
    done = subprocess.run([sys.executable, "-m", app, *argv], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(Path("run/results.json").read_text())
    assert any("batch norm of each process" in change for change in results["changes"])
    steps = [json.loads(line).get("step") for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 4, None]


# ---- bad input: one line each ----


def fails(main: Callable[[list[str]], int], argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_bad_weights(place: Path, weights: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    state = load_backbone(weights(arch="resnet34"))[0].state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("layer3.5.")}, "odd.pth")
    for app, main in APPS.items():
        fails(main, ["voc", "--weights", "odd.pth", "--out", f"{app}-run", *FAST], "blocks per stage", capsys)
        fails(main, ["voc", "--weights", "none.pth", "--out", f"{app}-run", *FAST], "none.pth", capsys)
        assert not Path(f"{app}-run").exists()


@pytest.mark.parametrize(("app", "command"), [(a, c) for a, c, _ in ALL])
def test_another_layout(app: str, command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    fails(APPS[app], [command, "--data", "empty", "--check-data"], "get ", capsys)
    fails(APPS[app], [command, "--data", "empty", "--out", "run", *FAST], "get ", capsys)
    assert not Path("run").exists()


def drawn(layout: str) -> Path:
    from indexed_images import export_shapes

    export_shapes("data", layout, **DRAWN)  # type: ignore[arg-type]
    return Path("data")


def test_coco_annotations_that_do_not_fit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = drawn("coco")
    path = data / "annotations" / "instances_train2017.json"
    good = path.read_text()
    check = ["coco", "--data", "data", "--check-data"]
    assert detect.cli.main(check) == 0
    for change, said in (
        (lambda c: c["categories"].pop(), "is not listed"),
        (lambda c: c["categories"].append({"id": 999, "name": "yeti"}), "yeti"),
        (lambda c: c["categories"].reverse(), "another order"),
        (lambda c: c["annotations"][0].update(image_id=10**9), "image 1000000000"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "no mask"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "gone.jpg"),
    ):
        content = json.loads(good)
        change(content)
        path.write_text(json.dumps(content))
        fails(detect.cli.main, check, said, capsys)
    path.write_text(good[:-10])
    fails(detect.cli.main, check, "not a COCO annotation file", capsys)


def test_voc_files_that_are_missing_or_odd(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = drawn("voc")
    check = ["voc", "--data", "data", "--check-data"]
    assert detect.cli.main(check) == segment.cli.main(check) == 0
    annotation = next((data / "VOC2007" / "Annotations").glob("*.xml"))
    text = annotation.read_text()
    annotation.write_text(text.replace("<name>", "<name>un", 1))
    fails(detect.cli.main, check, "objects of class", capsys)
    annotation.write_text(text[:50])
    fails(detect.cli.main, check, "not an XML file", capsys)
    annotation.write_text(text)
    mask = next((data / "VOC2012" / "SegmentationClassAug").glob("2012_000008.png"))
    mask.unlink()
    fails(segment.cli.main, check, mask.name, capsys)


def test_masks_with_unknown_ids(place: Path, weights: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    data = drawn("voc")
    for mask in (data / "VOC2012" / "SegmentationClass").glob("*.png"):
        Image.fromarray(np.full((64, 85), 77, np.uint8)).save(mask)
    argv = ["voc", "--data", "data", "--weights", weights(), "--out", "run", "--scale", "0.1", *FAST]
    fails(segment.cli.main, argv, "holds id 77", capsys)


# ---- the real bits ----


def unpack(name: str, folder: Path) -> Path:
    archive = next((SHARED / name).glob("*.tar"), None) if (SHARED / name).is_dir() else None
    if archive is None:
        pytest.skip(f"no {name} under {SHARED}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


REAL = ["--scale", "0.15", *FAST]


@pytest.fixture
def few_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand regions an image take minutes on two cores."""
    scale = detect.toolbox.scale_images
    monkeypatch.setattr(
        detect.toolbox, "scale_images", lambda config, by: scale(config, by) + detect.toolbox.make_small(config)
    )


def test_real_voc_detection(place: Path, weights: Callable[..., str], few_regions: None) -> None:
    """The bits are of 2012 alone; a 2007 folder in the same layout takes their own split."""
    root = unpack("voc", place / "bits") / "VOCdevkit"
    year = root / "VOC2012"
    (root / "VOC2007").symlink_to(year)
    lists = year / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text())
    (lists / "test.txt").write_text((lists / "val.txt").read_text())
    assert detect.cli.main(["voc", "--data", "bits", "--weights", weights(stem="imagenet"), "--out", "run", *REAL]) == 0
    assert json.loads(Path("run/results.json").read_text())["data"].startswith("VOC2007 trainval: 62 images")


def test_real_coco(place: Path, weights: Callable[..., str], few_regions: None) -> None:
    unpack("coco", place / "bits")
    assert (
        detect.cli.main(["coco", "--data", "bits", "--weights", weights(stem="imagenet"), "--out", "run", *REAL]) == 0
    )
    results = json.loads(Path("run/results.json").read_text())
    assert results["data"].startswith("train2017: 50 images, 470 objects of 49 categories")


def test_real_voc_segmentation(place: Path, weights: Callable[..., str]) -> None:
    """A third of the training list plays the part of what SBD adds."""
    year = unpack("voc", place / "bits") / "VOCdevkit" / "VOC2012"
    (year / "SegmentationClassAug").symlink_to(year / "SegmentationClass")
    lists = year / "ImageSets" / "Segmentation"
    train = (lists / "train.txt").read_text().splitlines()
    (lists / "train.txt").write_text("\n".join(train[:40]))
    (lists / "trainaug.txt").write_text("\n".join(train))
    assert (
        segment.cli.main(["voc", "--data", "bits", "--weights", weights(stem="imagenet"), "--out", "run", *REAL]) == 0
    )


def test_real_cityscapes(place: Path, weights: Callable[..., str]) -> None:
    """One frame: it trains and is scored."""
    root = unpack("cityscapes", place / "bits")
    for part in ("leftImg8bit", "gtFine"):
        (root / part / "train").symlink_to(root / part / "val")
    assert segment.cli.main(["cityscapes", "--data", "bits", "--weights", weights(), "--out", "run", *REAL]) == 0
    assert Path("run/report.html").exists()
