"""detect and segment with torchvision: whole runs of six steps, and their parts against naive loops."""

import colorsys
import contextlib
import io
import json
import math
import os
import signal
from argparse import Namespace
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
from detect.torchvision_data import CocoImages, average_precision, decode, entries, flip, is_inside
from detect.torchvision_model import build_detector
from forks import forked_ranks
from indexed_images import export_shapes
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from segment.torchvision_data import Maps, Sizes, fit, photometric_distortion, random_crop, saturate
from segment.torchvision_model import FCN, fcn_loss, predict, windows
from sobel_resnet import FeatureMaps, ResNet, save_backbone
from steady_runs import BadInput, Job
from steady_runs.plain import Order, Part, Plan, make_plan
from torch import Tensor, nn

ENGINES: dict[str, ModuleType] = {"detect": detect_engine, "segment": segment_engine}
APPS = {"coco": "detect", "voc": "segment", "cityscapes": "segment"}
COLUMNS = {
    "coco": ["box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75"],
    "voc": ["mIoU"],
    "cityscapes": ["mIoU"],
}
STEPS = 6


PUBLISHED = segment_engine.PUBLISHED


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
    Image.fromarray(np.full_like(np.array(Image.open(mask)), 77)).save(mask)
    made = command("cityscapes", "--data", str(tmp_path / "city"), "--workers", workers, "--out", str(tmp_path / "run"))
    error = capsys.readouterr().err
    assert made == 2
    assert error.count("\n") == 1
    assert mask.name in error
    assert "id 77" in error


# ---- schedules ----


def plan_of(
    *, iterations: int, batch: int, lr: float, asked: int | None = None, of: int | None = None, world: int = 1
) -> Plan:
    options = Namespace(iterations=asked, batch=of, lr_rule="linear")
    job = Job(options, None, None, None, world=world)  # type: ignore[arg-type]  # looks at options and ranks only
    return make_plan(job, iterations=iterations, batch=batch, lr=lr, every=2000)


def test_the_learning_rate_of_coco() -> None:
    epoch = 7330
    falls = (8 * epoch, 11 * epoch)
    at = detect_engine.learning_rate(plan_of(iterations=12 * epoch, batch=16, lr=0.02), falls)
    assert at(0) == pytest.approx(0.02 * 0.001)
    assert at(500) == pytest.approx(0.02 * (0.001 + 0.999 * 0.5))
    assert at(1000) == at(8 * epoch - 1) == pytest.approx(0.02)
    assert at(8 * epoch) == at(11 * epoch - 1) == pytest.approx(0.002)
    assert at(11 * epoch) == at(12 * epoch - 1) == pytest.approx(0.0002)

    assert plan_of(iterations=12 * epoch, batch=16, lr=0.02).changes == ()
    plan = plan_of(iterations=12 * epoch, batch=16, lr=0.02, asked=1200, of=4)
    at = detect_engine.learning_rate(plan, falls)
    assert (plan.iterations, plan.batch, plan.every) == (1200, 4, 1200)
    assert at(120) == at(799) == pytest.approx(0.005)
    assert at(800) == at(1099) == pytest.approx(0.0005)
    assert at(1100) == pytest.approx(0.00005)
    assert len(plan.changes) == 3


def test_the_learning_rate_of_segmentation() -> None:
    at = segment_engine.learning_rate(plan_of(iterations=20_000, batch=16, lr=0.01))
    for step in (0, 1, 9_999, 19_999):
        assert at(step) == pytest.approx((0.01 - 1e-4) * (1 - step / 20_000) ** 0.9 + 1e-4, rel=1e-12)
    assert at(0) == pytest.approx(0.01)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(BadInput, match="--batch 3 cannot be shared by 2 processes"):
        plan_of(iterations=10, batch=16, lr=0.1, of=3, world=2)


def test_the_published_numbers(whole_run: Callable[[str], Path]) -> None:
    engine = detect_engine
    assert (engine.BATCH, engine.LR, engine.MOMENTUM, engine.WEIGHT_DECAY) == (16, 0.02, 0.9, 1e-4)
    assert engine.EPOCHS == {"1x": (12, (8, 11)), "2x": (24, (16, 22))}
    voc, city = PUBLISHED["voc"], PUBLISHED["cityscapes"]
    assert (voc.iterations, voc.batch, voc.every, voc.align_corners) == (20_000, 16, 2_000, False)
    assert (city.iterations, city.batch, city.every, city.align_corners) == (40_000, 8, 4_000, True)
    assert voc.sizes == Sizes(2048, 512, 512)
    assert city.sizes == Sizes(2049, 1025, 769, 769, 513)
    assert segment_engine.scale_sizes(city.sizes, 0.5) == Sizes(1024, 512, 385, 385, 257)
    for protocol, decay in (("coco", 1e-4), ("voc", 5e-4)):
        [group] = torch.load(whole_run(protocol) / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, decay, False)


# ---- order of images ----


def job_of(rank: int = 0, world: int = 1) -> Job:
    return Job(Namespace(seed=3), None, None, None, rank=rank, world=world)  # type: ignore[arg-type]


def test_every_pass_holds_every_image_once_and_goes_on_anywhere() -> None:
    steps = list(Order(5, 4, job_of(), first=0, last=10))
    stream = [key for step in steps for key in step]
    assert [place for place, _ in stream] == list(range(40))
    passes = [[index for _, index in stream[start : start + 5]] for start in range(0, 40, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert passes[0] != passes[1]
    assert list(Order(5, 4, job_of(), first=7, last=10)) == steps[7:]


def test_ranks_share_each_batch_and_each_score() -> None:
    whole = list(Order(5, 4, job_of(), first=2, last=6))
    parts = [list(Order(5, 4, job_of(rank, 2), first=2, last=6)) for rank in (0, 1)]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole
    assert sorted([*Part(7, job_of(0, 2)), *Part(7, job_of(1, 2))]) == list(Part(7, job_of()))


# ---- detection ----


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "drawn"
    export_shapes(folder, "coco", n_train=8, n_val=4, size=64)
    return folder


def test_the_mask_of_an_object_survives_the_flip(coco: Path) -> None:
    images = CocoImages(coco, "train")
    for index in range(len(images)):
        image, target = images[index, index]
        flipped, changed = flip(image, target)
        for k, (x1, y1, x2, y2) in enumerate(changed["boxes"].int().tolist()):
            rows, columns = changed["masks"][k].nonzero().T
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
        before, after = target["masks"].bool(), changed["masks"].bool()
        for k in range(len(before)):  # the same pixels of the image, in mirrored order
            assert torch.equal(image[:, before[k]].sort().values, flipped[:, after[k]].sort().values)
        again = flip(flipped, changed)[1]
        assert all(torch.equal(again[name], target[name]) for name in target)


def test_training_images_are_flipped_by_place_in_the_stream(coco: Path) -> None:
    images = CocoImages(coco, "train", seed=0)
    seen = [images[place, 0][1]["boxes"][0, 0].item() for place in range(40)]
    assert len(set(seen)) == 2
    assert 10 < seen.count(seen[0]) < 30
    assert seen == [images[place, 0][1]["boxes"][0, 0].item() for place in range(40)]


def test_objects_without_a_pixel_in_the_image_are_left_out() -> None:
    assert is_inside([0, 0, 1, 1], 10, 8)
    assert is_inside([-4, 7.5, 5, 3], 10, 8)
    assert not is_inside([0, 0, 0.9, 5], 10, 8)
    assert not is_inside([10, 0, 3, 3], 10, 8)
    assert not is_inside([0, -3, 3, 3], 10, 8)


def test_polygons_and_run_lengths_give_one_mask() -> None:
    square = decode([[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]], 4, 5)
    runs = decode({"size": [4, 5], "counts": [5, 2, 2, 2, 2, 2, 5]}, 4, 5)
    assert square.sum() == 6
    assert np.array_equal(square, runs)


def test_crowds_are_not_trained_on_and_not_scored(coco: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").symlink_to(coco / f"{split}2017")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.loads((coco / "annotations" / f"instances_{split}2017.json").read_text())
        first = content["images"][0]["id"]
        for one in content["annotations"]:
            one["iscrowd"] = int(one["image_id"] == first)
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    train = CocoImages(tmp_path, "train", seed=0)
    assert len(train) == 7  # the image that holds crowds alone is not trained on
    val, plain = CocoImages(tmp_path, "val"), CocoImages(coco, "val")
    assert len(val[0, 0][1]["boxes"]) == 0
    found = [one for k in range(4) for one in entries(plain[k, k][1], perfect(plain, k), list(plain.labels))]
    scored = average_precision(tmp_path, found, tmp_path)
    assert list(scored.values()) == pytest.approx([100.0] * 6)  # what is found in the crowds counts neither way


def perfect(images: CocoImages, index: int) -> dict[str, Tensor]:
    truth = images[index, index][1]
    return truth | {"scores": torch.ones(len(truth["labels"])), "masks": truth["masks"][:, None].float()}


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


def test_boxes_in_scores_are_corner_and_size(coco: Path) -> None:
    images = CocoImages(coco, "val")
    content = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    truth = [one for one in content["annotations"] if one["image_id"] == images.images[1]["id"]]
    made = entries(images[1, 1][1], perfect(images, 1), list(images.labels))
    assert [one["bbox"] for one in made] == [one["bbox"] for one in truth]
    assert [one["category_id"] for one in made] == [one["category_id"] for one in truth]


def test_the_detector_has_the_published_parts() -> None:
    backbone = ResNet("resnet18", width=0.25, seed=1)
    model = build_detector(backbone, 80, seed=0)
    assert model.transform.min_size == (640, 672, 704, 736, 768, 800)
    assert model.transform.max_size == 1333
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert model.rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    assert (model.rpn._pre_nms_top_n["training"], model.rpn._post_nms_top_n["training"]) == (2000, 1000)
    assert (model.rpn._pre_nms_top_n["testing"], model.rpn._post_nms_top_n["testing"]) == (1000, 1000)
    roi = model.roi_heads
    assert (roi.fg_bg_sampler.batch_size_per_image, roi.fg_bg_sampler.positive_fraction) == (512, 0.25)
    assert (roi.score_thresh, roi.nms_thresh, roi.detections_per_img) == (0.05, 0.5, 100)
    assert (roi.proposal_matcher.high_threshold, roi.proposal_matcher.low_threshold) == (0.5, 0.5)
    assert roi.proposal_matcher.allow_low_quality_matches
    assert roi.box_coder.weights == (10.0, 10.0, 5.0, 5.0)
    assert (roi.box_roi_pool.output_size, roi.mask_roi_pool.output_size) == ((7, 7), (14, 14))
    assert (roi.box_roi_pool.sampling_ratio, roi.mask_roi_pool.sampling_ratio) == (0, 0)
    for head, convs in ((roi.box_head, 4), (roi.mask_head, 4), (model.backbone.fpn, 8)):
        kinds = [type(module) for module in head.modules()]
        assert (kinds.count(nn.Conv2d), kinds.count(nn.BatchNorm2d)) == (convs, convs)
    assert [m.out_features for m in roi.box_head.modules() if isinstance(m, nn.Linear)] == [1024]
    assert (roi.box_predictor.cls_score.out_features, roi.box_predictor.bbox_pred.out_features) == (81, 324)
    assert roi.mask_predictor.mask_fcn_logits.out_channels == 81
    assert all(p.requires_grad for p in model.parameters())
    inside = model.backbone.body.state_dict()
    assert all(torch.equal(inside[name], t) for name, t in backbone.state_dict().items())
    same = build_detector(backbone, 80, seed=0).state_dict()
    assert all(torch.equal(same[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(("stem", "strides"), [("imagenet", (4, 8, 16, 32, 64)), ("cifar", (1, 2, 4, 8, 16))])
def test_anchors_and_regions_follow_the_strides_of_the_backbone(stem: Any, strides: tuple[int, ...]) -> None:
    model = build_detector(ResNet("resnet18", stem=stem, width=0.25), 3, seed=0, scale=0.1, channels=8).eval()
    assert model.backbone.strides == strides
    assert model.roi_heads.box_roi_pool.scales == [1 / stride for stride in strides[:4]]
    images, _ = model.transform([torch.rand(3, 70, 99)])
    maps = list(model.backbone(images.tensors).values())
    height, width = images.tensors.shape[-2:]
    assert [(height / m.shape[-2], width / m.shape[-1]) for m in maps] == [(stride, stride) for stride in strides]
    anchors = model.rpn.anchor_generator(images, maps)[0]
    start = 0
    for stride, m in zip(strides, maps, strict=True):
        level = anchors[start : start + 3 * m.shape[-1] * m.shape[-2]].reshape(*m.shape[-2:], 3, 4)
        assert level[0, 1, 0, 0] - level[0, 0, 0, 0] == stride
        assert (level[0, 0, 1, 2] - level[0, 0, 1, 0]) == 8 * stride  # the square one
        start += 3 * m.shape[-1] * m.shape[-2]
    assert start == len(anchors)
    mapper = model.roi_heads.box_roi_pool.map_levels
    region = torch.tensor([[0.0, 0.0, 56.0, 56.0]])
    assert strides[int(mapper([region])[0])] == 4


# ---- segmentation ----


def test_miou_is_that_of_a_naive_loop() -> None:
    g = torch.Generator().manual_seed(0)
    names = [f"class {k}" for k in range(5)]
    confusion, pixels = torch.zeros(5, 5, dtype=torch.int64), []
    for height, width in ((7, 9), (4, 5)):
        truth = torch.randint(0, 3, (height, width), generator=g)
        truth[torch.rand(height, width, generator=g) < 0.2] = 255
        found = torch.randint(0, 4, (height, width), generator=g)
        confusion += segment_engine.count(found, truth, 5)
        pixels += list(zip(truth.flatten().tolist(), found.flatten().tolist(), strict=True))
    pixels = [(t, f) for t, f in pixels if t != 255]
    ious = {}
    for k, name in enumerate(names):
        either = sum(t == k or f == k for t, f in pixels)
        if either:
            ious[f"IoU of {name}"] = 100 * sum(t == k == f for t, f in pixels) / either
    expected = {"mIoU": sum(ious.values()) / len(ious), "aAcc": 100 * sum(t == f for t, f in pixels) / len(pixels)}
    assert segment_engine.figures(confusion, names) == pytest.approx(expected | ious)
    assert "IoU of class 4" not in ious  # in neither truth nor prediction


def naive_miou(run: Path, files: list[tuple[Path, Path]], n_classes: int) -> float:
    """Of a finished run of voc: counted mask by mask, class by class."""
    model = FCN(ResNet("resnet18", stem="cifar", width=0.25), n_classes, align_corners=False, seed=0)
    model.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["network"])
    model.eval()
    sizes = segment_engine.scale_sizes(PUBLISHED["voc"].sizes, 0.125)
    held_out = Maps(files, n_classes, sizes)
    hits, either = [0] * n_classes, [0] * n_classes
    for index, (_, mask) in enumerate(files):
        truth = np.array(Image.open(mask))
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


def test_windows_are_those_of_the_protocol() -> None:
    assert [(w.start, w.stop) for w in windows(1025, 769, 513)] == [(0, 769), (256, 1025)]
    assert [(w.start, w.stop) for w in windows(2049, 769, 513)] == [(0, 769), (513, 1282), (1026, 1795), (1280, 2049)]
    assert [(w.start, w.stop) for w in windows(500, 769, 513)] == [(0, 500)]
    for length in range(769, 2100, 7):
        assert len(windows(length, 769, 513)) == max(length - 769 + 513 - 1, 0) // 513 + 1


def test_overlapping_windows_share_a_pixel_equally() -> None:
    class Shifted(FCN):
        """Class 0 scores by how bright the window's first pixel is, class 1 a constant."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.align_corners = True

        def forward(self, images: Tensor) -> Tensor:
            first = images[:, :1, :1, :1].expand(-1, 1, 2, 2)
            return torch.cat([first, torch.full_like(first, 1.5)], 1)

    image = torch.arange(6.0).expand(3, 4, 6)  # brightness is the column
    sizes = Sizes(0, 0, 4, window=4, apart=2)  # windows from columns 0 and 2: means 0, 1 and 2
    found = predict(Shifted(), image, (4, 6), sizes)
    assert found.tolist() == [[1, 1, 1, 1, 0, 0]] * 4


def test_the_loss_is_over_all_pixels_and_the_auxiliary_head_counts_less() -> None:
    g = torch.Generator().manual_seed(0)
    logits, auxiliary = torch.randn(2, 3, 4, 4, generator=g), torch.randn(2, 3, 4, 4, generator=g)
    labels = torch.randint(0, 3, (2, 4, 4), generator=g)
    labels[:, 0] = 255
    expected = 0.0
    for b, y, x in np.ndindex(2, 4, 4):
        if (k := int(labels[b, y, x])) != 255:
            for weight, one in ((1.0, logits), (0.4, auxiliary)):
                expected -= weight * float(one[b, :, y, x].double().log_softmax(0)[k]) / labels.numel()
    assert float(fcn_loss(logits, auxiliary, labels, align_corners=False)) == pytest.approx(expected, rel=1e-5)


def test_the_network_has_the_published_heads() -> None:
    model = FCN(ResNet("resnet18", seed=1), 21, align_corners=False, seed=0)
    kernels = {n: tuple(p.shape) for n, p in model.named_parameters() if p.ndim == 4 and not n.startswith("backbone")}
    assert kernels == {
        "auxiliary.convs.0.0.weight": (64, 256, 3, 3),
        "auxiliary.classify.weight": (21, 64, 1, 1),
        "decode.convs.0.0.weight": (128, 512, 3, 3),
        "decode.convs.1.0.weight": (128, 128, 3, 3),
        "decode.mix.0.weight": (128, 640, 3, 3),
        "decode.classify.weight": (21, 128, 1, 1),
    }
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.1, 0.1]
    assert isinstance(model.backbone, FeatureMaps)
    assert model.backbone.strides == (8, 8)
    assert float(model.decode.classify.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert all(p.requires_grad for p in model.parameters())


def test_images_fit_into_two_limits_in_their_shape() -> None:
    assert fit((375, 500), 2048, 512) == (512, 683)
    assert fit((100, 1000), 2048, 512) == (205, 2048)
    assert fit((1024, 2048), 2049, 1025) == (1025, 2049)


def test_a_crop_is_drawn_again_while_one_class_has_most_of_it() -> None:
    labels = torch.zeros(40, 40, dtype=torch.uint8)
    labels[:, 34:] = 1
    image = torch.arange(40.0).expand(3, 40, 40)
    mixed = 0
    for seed in range(60):
        crop, of_crop = random_crop(image, labels, 16, torch.Generator().manual_seed(seed))
        assert torch.equal((crop[0] >= 34).to(torch.uint8), of_crop)  # both are cut alike
        mixed += bool(0.25 < (of_crop == 1).float().mean() < 0.75)
    # 2 of 25 places hold more than a quarter of the other class: 8 % of single draws, 60 % of eleven
    assert 25 < mixed < 50
    small = random_crop(image[:, :5, :7], torch.full((5, 7), 255, dtype=torch.uint8), 16, torch.Generator())
    assert small[0].shape == (3, 5, 7)


def test_training_crops_are_padded_with_what_does_not_count(place: Path, whole_run: Callable[[str], Path]) -> None:
    whole_run("voc")
    [drawn] = place.glob("runs/drawn/voc-*")
    pairs = segment_engine.files(drawn / "VOC2012", "voc", "train")
    assert len(pairs) == 8
    assert {mask.parent.name for _, mask in pairs} == {"SegmentationClass", "SegmentationClassAug"}
    maps = Maps(pairs, 13, Sizes(60, 30, crop=64), seed=0)
    padded = 0
    for key in range(8):
        image, labels = maps[key, key]
        assert image.shape == (3, 64, 64)
        assert labels.shape == (64, 64)
        beyond = (image == 0).all(0)
        assert bool((labels[beyond] == 255).all())
        padded += int(beyond.sum())
    assert padded > 0
    assert all(torch.equal(a, b) for a, b in zip(maps[3, 1], maps[3, 1], strict=True))
    assert not torch.equal(maps[3, 1][0], maps[4, 1][0])


def test_saturation_is_that_of_hsv() -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(3, 5, 6, generator=g)
    image[:, 0, 0] = 0
    image[:, 0, 1] = 0.5
    for factor in (0.5, 1.0, 1.5):
        made = saturate(image, factor)
        for y, x in np.ndindex(5, 6):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            expected = colorsys.hsv_to_rgb(h, min(1.0, s * factor), v)
            assert made[:, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_distortion_stays_in_range_and_is_left_out_half_of_the_time() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = [photometric_distortion(image, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in made)
    untouched = sum(torch.equal(one, image) for one in made)
    assert 4 <= untouched <= 24  # one sixteenth of 200 is 12.5
