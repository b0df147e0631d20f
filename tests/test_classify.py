"""apps/classify as users run it: every command on embedded images, one extraction, resume, errors, two ranks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from classify import benchmarks
from classify.benchmarks.lowshot import possible_k
from classify.cli import main
from classify.protocols import LINEAR, MHEAD, linear_protocol
from classify.results import rows
from classify.unfinished import Unfinished
from eval_probes import KNNProbe
from forks import forked_ranks
from indexed_images import export_shapes, open_images
from multicrop_aug import evaluation, render
from sobel_resnet import ResNet, load_backbone, resnet18, save_backbone
from steady_runs import RunFolder

DATA = ("--data", "shapes:n=160,n_val=60")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_backbone(resnet18(stem="cifar", width=0.125, seed=3), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def arguments(command: str, weights: Path, cache: Path, out: Path, *more: str) -> list[str]:
    common = ["--weights", str(weights), *DATA, "--cache", str(cache), "--out", str(out), "--device", "cpu", "--quiet"]
    return [command, *common, *more]


def run(command: str, weights: Path, cache: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(arguments(command, weights, cache, out, *more)) == 0
    return results(out)


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    assert found.pop("wall_s") > 0
    return found


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images with several labels each."""
    return export_shapes(tmp_path_factory.mktemp("voc") / "set", "voc", n_train=80, n_val=30, size=32)


@pytest.fixture(scope="module")
def everything(weights: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("all")
    run("all", weights, cache, out / "run", "--shots", "1", "2", "64")
    return out / "run"


def test_all_measures_what_the_labels_allow(everything: Path) -> None:
    found = json.loads((everything / "results.json").read_text())
    assert list(found["results"]) == ["knn", "linear", "mhead", "svm", "lowshot", "cluster"]
    assert set(found["results"]["knn"]["k"]) == {"10", "20", "100", "200"}
    assert set(found["results"]["mhead"]["taps"]) == {f"feature{i}" for i in range(1, 6)}
    assert found["results"]["lowshot"]["left_out"] == [64]
    for row in found["results"]["knn"]["k"].values():
        low, high = row["interval"]
        assert 0 <= low <= row["top1"] <= high <= 100
    assert len(found["weights"]["sha256"]) == 64
    assert {"torch", "eval-probes"} <= found["versions"].keys()
    page = (everything / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/png" in page


def test_knn_is_that_of_the_images(everything: Path, weights: Path) -> None:
    backbone, _ = load_backbone(weights)
    features = {}
    for split in ("train", "val"):
        images = open_images(DATA[1], split)
        resident = images.resident()
        crops = render(resident, evaluation(32, 32).draw(torch.arange(len(images)), 0, (32, 32), 0))[0]
        with torch.inference_mode():
            features[split] = (backbone.eval()(crops).clone(), images.labels)
    scores = KNNProbe((10, 20)).fit(*features["train"]).evaluate(*features["val"])  # type: ignore[arg-type]
    found = json.loads((everything / "results.json").read_text())["results"]["knn"]["k"]
    for k in (10, 20):
        assert found[str(k)]["top1"] == pytest.approx(100 * scores[f"k={k}"]["top1"])
        assert found[str(k)]["top5"] == pytest.approx(100 * scores[f"k={k}"]["top5"])


def test_a_second_probe_makes_no_features(
    everything: Path, weights: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the features are in the cache")

    monkeypatch.setattr(ResNet, "stages", refuse)
    run("cluster", weights, cache, tmp_path / "run", "--k", "5")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves half of the time of a small run."""
    monkeypatch.setattr("classify.run.render", lambda *_: "")


SMALL = ("--epochs", "2", "--size", "32", "--resize", "40")


@pytest.mark.parametrize(
    ("command", "more", "stop_at"),
    [
        ("linear", SMALL, 1),
        ("mhead", SMALL, 1),
        ("linear", ("--features", "cached", "--epochs", "3", "--lr", "0.1", "1"), 2),
    ],
    ids=["linear-fresh", "mhead-fresh", "linear-cached"],
)
@pytest.mark.usefixtures("no_report")
def test_resume_within_a_training(
    command: str,
    more: tuple[str, ...],
    stop_at: int,
    weights: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = run(command, weights, cache, tmp_path / "whole", *more)
    fresh = "--features" not in more
    result = expected["results"][command]
    assert result["images"] == ("random crops, new in each epoch" if fresh else "central crops, cached")
    assert result["epochs"] == int(more[more.index("--epochs") + 1])

    epochs: list[int] = []
    after_epoch = Unfinished.after_epoch

    def interrupted(self: Unfinished, state: dict[str, Any]) -> None:
        epochs.append(state["epoch"])
        if state["epoch"] == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        after_epoch(self, state)

    monkeypatch.setattr(Unfinished, "after_epoch", interrupted)
    out = tmp_path / "run"
    assert main(arguments(command, weights, cache, out, *more)) == 130
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert main(shlex.split(error.partition("uv run apps/classify ")[2])) == 0
    assert epochs == list(range(1, result["epochs"] + 1))  # none was trained twice
    assert results(out) == expected
    assert {path.name for path in out.iterdir()} == {"settings.json", "metrics.jsonl", "results.json", "report.html"}


@pytest.mark.usefixtures("no_report")
def test_resume_within_a_grid(weights: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["--fraction", "0.1", "--epochs", "2", "--lr", "0.01", "--head-multiplier", "1", "10", "--train-batch", "8"]
    expected = run("semi", weights, cache, tmp_path / "whole", *more)
    semi = expected["results"]["semi"]
    assert [(cell["lr"], cell["head_multiplier"]) for cell in semi["cells"]] == [(0.01, 1.0), (0.01, 10.0)]
    assert 0 <= semi["best_on_val"]["top1"] <= 100

    saved, save = [], Unfinished.save

    def interrupted(self: Unfinished, state: Any) -> None:
        save(self, state)
        saved.append(len(state))
        if len(state) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Unfinished, "save", interrupted)
    assert main(arguments("semi", weights, cache, tmp_path / "run", *more)) == 130
    assert main(["resume", str(tmp_path / "run"), "--workers", "0"]) == 0
    assert saved == [1, 2]
    assert results(tmp_path / "run") == expected


@pytest.mark.usefixtures("no_report")
def test_resume_after_a_benchmark(
    weights: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [benchmarks.BENCHMARKS[name] for name in ("knn", "cluster")]
    monkeypatch.setattr(benchmarks, "IN_ALL", quick)
    monkeypatch.chdir(tmp_path)
    expected = run("all", weights, cache, tmp_path / "whole")
    append = RunFolder.append_metrics

    def interrupted(self: RunFolder, figures: dict[str, Any]) -> None:
        append(self, figures)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", interrupted)
        assert main(arguments("all", weights, cache, Path("run"))) == 130
    assert capsys.readouterr().err == "classify: stopped; go on with: uv run apps/classify resume run\n"
    assert not Path("run/results.json").exists()

    def refuse(*_: Any) -> None:
        raise AssertionError("knn is finished")

    with monkeypatch.context() as patch:
        patch.setattr(KNNProbe, "hits", refuse)
        assert main(["resume", "run", "--quiet"]) == 0
    assert results(Path("run")) == expected
    assert main(["resume", "run"]) == 2
    assert capsys.readouterr().err == "classify: run: finished; nothing to resume\n"


def test_resume_refuses_other_weights(
    weights: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "backbone.safetensors"
    own.write_bytes(weights.read_bytes())

    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(KNNProbe, "hits", interrupted)
        assert main(arguments("knn", own, cache, tmp_path / "run")) == 130
    save_backbone(resnet18(stem="cifar", width=0.125, seed=4), own)
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 2
    assert "the weights changed since the run began" in capsys.readouterr().err


def test_every_preset_has_a_protocol() -> None:
    for preset in (LINEAR | MHEAD).values():
        assert linear_protocol(preset, None).epochs > linear_protocol(preset, 2).epochs == 2


@pytest.mark.parametrize("preset", list(MHEAD)[1:])  # the first one is the default
def test_augmentations_of_other_presets(preset: str, weights: Path, cache: Path, tmp_path: Path) -> None:
    run(
        "mhead", weights, cache, tmp_path / "run", "--preset", preset, "--epochs", "1", "--size", "24", "--resize", "32"
    )


@pytest.mark.parametrize("command", ["all", "svm"])
def test_several_labels_an_image(command: str, weights: Path, voc: str, tmp_path: Path) -> None:
    more = ["--weights", str(weights), "--data", voc, "--out", str(tmp_path / "run"), "--cache", "", "--size", "32"]
    more += ["--shots", "1", "2"] if command == "all" else ["--taps", "feature4", "feature5", "--costs", "vissl"]
    assert main([command, *more]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["squash"] is True
    assert list(found["results"]) == (["svm", "lowshot"] if command == "all" else ["svm"])
    assert 0 < found["results"]["svm"]["mean_ap"] <= 100


def test_a_corrupt_image(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = export_shapes(tmp_path / "set", "imagenet", n_train=20, n_val=10, size=32)
    file = open_images(data, "val").name(4)
    (next(path for path in tmp_path.rglob("*") if str(path).endswith(file))).write_bytes(b"no image")
    command = ["cluster", "--weights", str(weights), "--data", data, "--size", "32", "--workers", "1", "--quiet"]
    assert main([*command, "--cache", "", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("classify: ")
    assert file in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_knn_of_several_labels_is_refused(
    weights: Path, voc: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["knn", "--weights", str(weights), "--data", voc, "--out", str(tmp_path / "run")]) == 2
    assert "images of one class each" in capsys.readouterr().err


def test_the_real_voc_reader(weights: Path, data_folder: Path, tmp_path: Path) -> None:
    archive = data_folder / "voc" / "voc2012_subset.tar"
    if not archive.exists():
        pytest.skip("no voc2012_subset.tar among the real images")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "voc", filter="data")
    kit = next((tmp_path / "voc").rglob("ImageSets")).parent
    more = ["--data", f"voc07:{kit}", "--size", "64", "--resize", "72", "--cache", "", "--out", str(tmp_path / "run")]
    assert main(["svm", "--weights", str(weights), *more]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 < found["results"]["svm"]["mean_ap"] <= 100
    assert len(found["results"]["svm"]["taps"]["feature5"]["ap"]) == 20


def test_a_subset_list(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = export_shapes(tmp_path / "set", "imagenet", n_train=60, n_val=20, size=32)
    files = sorted((tmp_path / "set").rglob("train/*/*.*"))[::3]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{file.parent.name}/{file.name} 0\n" for file in files))
    command = ["semi", "--weights", str(weights), "--data", data, "--size", "32", "--epochs", "1", "--lr", "0.01"]
    command += ["--head-multiplier", "1", "--list", str(listed), "--workers", "0"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["results"]["semi"]["n_images"] == len(files)
    listed.write_text("nothing/here.jpg 0\n")
    assert main([*command, "--out", str(tmp_path / "again")]) == 2
    assert "nothing/here.jpg" in capsys.readouterr().err


def test_fine_tuning_on_a_batch_and_one_image_more(tmp_path: Path) -> None:
    """Of nine images in batches of eight, one would be alone in a batch norm over maps of one pixel."""
    save_backbone(resnet18(stem="imagenet", width=0.125), tmp_path / "weights.safetensors")
    data = export_shapes(tmp_path / "set", "imagenet", n_train=60, n_val=20, size=32)
    files = sorted((tmp_path / "set").rglob("train/*/*.*"))[:9]
    (tmp_path / "list.txt").write_text("".join(f"{file.parent.name}/{file.name} 0\n" for file in files))
    command = ["semi", "--weights", str(tmp_path / "weights.safetensors"), "--data", data, "--size", "32"]
    command += ["--epochs", "2", "--lr", "0.01", "--head-multiplier", "1", "--list", str(tmp_path / "list.txt")]
    assert main([*command, "--train-batch", "8", "--workers", "0", "--out", str(tmp_path / "run")]) == 0


def test_the_honest_svm_is_not_of_the_best_layer() -> None:
    taps = {"feature4": {"mean_ap": 70.0}, "feature5": {"mean_ap": 60.0}}
    found = {"results": {"svm": {"taps": taps, "best_tap": "feature4", "mean_ap": 70.0}}}
    (_, published), (_, honest) = rows(found)["SVM and low-shot SVM (mAP, %)"]
    assert (published["SVM"], honest["SVM"]) == ("70.00", "60.00")


def test_the_newest_run_and_its_own_data(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "odc-1").mkdir(parents=True)
    save_backbone(load_backbone(weights)[0], "runs/odc-1/backbone.safetensors", metadata={"data": DATA[1]})
    assert main(["knn"]) == 0
    assert DATA[1] in capsys.readouterr().out
    assert main(["knn", "--random-init", "--cache", ""]) == 0
    assert main(["compare", "runs/classify-knn-1", "runs/classify-knn-2"]) == 0
    table = capsys.readouterr().out
    assert "classify-knn-1" in table
    assert "k=200" in table


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["knn", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["knn"], "no run under runs/"),
        (["kmn"], "did you mean 'knn'"),
        (["--data", "shapes"], "classify all --data shapes"),
        (["knn", "--kk", "5"], "did you mean '--k'"),
        (["knn", "--k", "0"], "--k should be greater than 0"),
        (["knn", "--weights", "W", "--data", "folder:nowhere"], "nowhere"),
        (["knn", "--weights", "W", "--data", "npz:unlabelled.npz", "--test", "npz:unlabelled.npz"], "no labels there"),
        (["knn", "--weights", "W", "--data", "npz:labelled.npz"], "--test SPEC"),
        (["knn", "--weights", "W", "--device", "cuda"], "no GPU"),
        (["lowshot", "--weights", "W", *DATA, "--k", "500", "--cache", ""], "take smaller --k"),
        (["cluster", "--weights", "W", *DATA, "--k", "500", "--cache", ""], "use k <= 60"),
        (["knn", "--weights", "W", *DATA, "--out", "/proc/run"], "cannot write"),
        (["svm", "--weights", "W", *DATA, "--taps", "layer4"], "--taps should be 'feature1'"),
        (["compare", "nowhere"], "no results there"),
        (["compare"], "needs run folders"),
        (["resume", "nowhere"], "not a run"),
        (["resume"], "needs the run folder"),
    ],
)
def test_one_clear_line(
    typed: list[str],
    said: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import numpy as np

    if "cuda" in typed and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    images = np.zeros((20, 32, 32, 3), np.uint8)
    np.savez("unlabelled.npz", images=images)
    np.savez("labelled.npz", images=images, labels=np.arange(20) % 2)
    assert main([str(weights) if a == "W" else a for a in typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith("classify: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    for command in (*benchmarks.BENCHMARKS, "all", "resume"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert capsys.readouterr().out.count("resnet50_linear-8xb32-steplr-100e_in1k") > 2


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, classify.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_shots_that_the_smallest_class_allows() -> None:
    y = torch.tensor([0] * 8 + [1] * 4 + [2] * 20)
    assert possible_k(y, [1, 2, 4, 8]) == ([1, 2, 4], [8])
    several = torch.tensor([[1, 0], [0, 1], [-1, 1], [1, 0]])
    assert possible_k(several, [1, 2, 3]) == ([1], [2, 3])


def test_two_ranks_equal_one(everything: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ["--cache", str(tmp_path / "features"), "--out", str(out)]
    done = forked_ranks(2, lambda: main(["knn", "--weights", str(weights), *DATA, "--device", "cpu", *more]), tmp_path)
    assert done.codes == [0, 0], done.errors
    one, two = (json.loads((path / "results.json").read_text())["results"]["knn"] for path in (everything, out))
    assert two["k"] == one["k"]
    assert two["rankme"] == pytest.approx(one["rankme"], rel=1e-4)
