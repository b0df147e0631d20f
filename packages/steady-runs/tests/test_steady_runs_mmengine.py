"""An MMEngine config as a run: figures, checkpoints without code, resume, broken losses, signals."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

pytest.importorskip("mmengine", reason="needs the openmmlab extra")

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from steady_runs import BadInput, Interrupted, Progress, RunFolder, StopSignal, TrainingFailed
from steady_runs.benchmark import BenchmarkSettings, Job
from steady_runs.benchmark.mmengine import Schedule, apply_options, run_mmengine
from torch import nn

pytestmark = pytest.mark.filterwarnings("default")  # MMEngine warns of its own code


@MODELS.register_module()
class Toy(BaseModel):
    def __init__(self, explode_at: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.explode_at, self.steps = explode_at, 0

    def forward(self, inputs: torch.Tensor, mode: str = "tensor") -> Any:
        out = self.layer(inputs)
        if mode != "loss":
            return [out.detach()]
        self.steps += 1
        loss = (out - 1).square().mean()
        return {"loss": loss * float("nan") if self.steps == self.explode_at else loss}

    def init_weights(self) -> None:
        nn.init.constant_(self.layer.weight, 0.5)


@DATASETS.register_module()
class Points(torch.utils.data.Dataset):  # type: ignore[type-arg]
    metainfo: ClassVar = {"classes": ("point",)}

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"inputs": torch.tensor([i / 16, 1.0])}


@METRICS.register_module()
class Mean(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(float(data_samples[0].mean()))

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"mean": sum(results) / len(results)}


SCHEDULE = Schedule(40, batch=4, warmup=4, milestones=(30,), evaluate_every=20)


def make(
    folder: Path, *, resumed: bool = False, model: dict[str, Any] | None = None, stop: Any = None, **options: Any
) -> tuple[Config, Job[BenchmarkSettings]]:
    given = {"command": "demo", "data": "real", "workers": 0, "checkpoint_every": 10, "score_untrained": True} | options
    folder.mkdir(exist_ok=True)
    settings = BenchmarkSettings.model_validate(given)
    job = Job(settings, RunFolder(folder), Progress(quiet=True), stop or StopSignal(), resumed)
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(type="Points"),
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
    )
    config = Config(
        dict(
            default_scope="mmengine",
            model=model or dict(type="Toy"),
            train_dataloader=loader,
            val_dataloader=loader,
            val_cfg=dict(type="ValLoop"),
            val_evaluator=dict(type="Mean"),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, begin=0, end=4),
                dict(type="MultiStepLR", begin=0, end=40, milestones=[30], gamma=0.1),
            ],
            default_hooks=dict(param_scheduler=dict(type="ParamSchedulerHook"), checkpoint={}, logger={}),
            env_cfg=dict(dist_cfg=dict(backend="gloo")),
            visualizer=dict(type="Visualizer", vis_backends=[]),
        )
    )
    apply_options(config, job, SCHEDULE)
    return config, job


def columns(metrics: dict[str, Any]) -> dict[str, float]:
    return {"mean": metrics["mean"]}


def lines(job: Job[BenchmarkSettings]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.folder.metrics.read_text().splitlines()]


def test_a_run_trains_scores_and_leaves_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, job = make(tmp_path / "run")
    trained = run_mmengine(config, job, columns)
    assert trained.untrained is not None
    assert abs(trained.metrics["mean"] - 1) < abs(trained.untrained["mean"] - 1)
    found = lines(job)
    assert [line["step"] for line in found if "loss" in line] == [10, 20, 30, 40]
    assert [(line["step"], line.get("untrained")) for line in found if "mean" in line] == [
        (0, True),
        (20, None),
        (40, None),
    ]
    assert found[-1]["mean"] == trained.metrics["mean"]
    assert found[1]["lr"] == pytest.approx(0.1)
    assert next(line["lr"] for line in found if line["step"] == 40) == pytest.approx(0.01)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.py", "model.pth", "log.txt", "metrics.jsonl", "checkpoints"} <= names
    model = torch.load(tmp_path / "run" / "model.pth", weights_only=True)
    assert model["meta"]["dataset_meta"] == {"classes": ("point",)}
    assert capsys.readouterr().out == ""


def test_checkpoints_can_be_read_without_running_code(tmp_path: Path) -> None:
    config, job = make(tmp_path / "run")
    run_mmengine(config, job, columns)
    kept = sorted((tmp_path / "run" / "checkpoints").glob("iter_*.pth"))
    assert [p.name for p in kept] == ["iter_30.pth", "iter_40.pth"]
    for path in kept:
        torch.load(path, weights_only=True)


class StopAt:
    """A stop signal that comes while step `n` runs."""

    def __init__(self, n: int) -> None:
        self.n, self.seen = n, 0

    def defer(self) -> None:
        pass

    @property
    def asked(self) -> bool:
        self.seen += 1
        return self.seen == self.n


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    config, job = make(tmp_path / "run", stop=StopAt(13))
    with pytest.raises(Interrupted, match="iteration 13"):
        run_mmengine(config, job, columns)
    config, job = make(tmp_path / "run", resumed=True)
    trained = run_mmengine(config, job, columns)
    steps = [line["step"] for line in lines(job) if "loss" in line]
    assert steps == [10, 20, 30, 40]
    assert trained.untrained is not None
    assert trained.untrained["mean"] == lines(job)[0]["mean"]


def test_a_run_cut_off_before_its_last_score_is_scored(tmp_path: Path) -> None:
    config, job = make(tmp_path / "run", stop=StopAt(40))
    with pytest.raises(Interrupted, match="iteration 40"):
        run_mmengine(config, job, columns)
    config, job = make(tmp_path / "run", resumed=True)
    trained = run_mmengine(config, job, columns)
    assert lines(job)[-1] == {"step": 40, "mean": trained.metrics["mean"]}


def test_damaged_checkpoints_and_those_with_code(tmp_path: Path) -> None:
    config, job = make(tmp_path / "run", stop=StopAt(23))
    with pytest.raises(Interrupted):
        run_mmengine(config, job, columns)
    folder = tmp_path / "run" / "checkpoints"
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    newest = folder / "iter_23.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    config, job = make(tmp_path / "run", resumed=True)
    run_mmengine(config, job, columns)
    assert lines(job)[-1]["step"] == 40
    for path in folder.glob("iter_*.pth"):
        with path.open("wb") as file:
            pickle.dump({"meta": Evil()}, file)
    config, job = make(tmp_path / "run", resumed=True)
    with pytest.raises(BadInput, match="no checkpoint that can be read"):
        run_mmengine(config, job, columns)
    assert not canary.exists()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    config, job = make(tmp_path / "run", model=dict(type="Toy", explode_at=15))
    with pytest.raises(TrainingFailed, match="nan at iteration 15"):
        run_mmengine(config, job, columns)
    assert [line["step"] for line in lines(job) if "loss" in line] == [10]


def test_options_change_batch_rate_and_schedule(tmp_path: Path) -> None:
    config, job = make(tmp_path / "run", batch=2, iterations=20)
    config.optim_wrapper.optimizer.lr = 0.1
    changes = apply_options(config, job, SCHEDULE)
    assert config.optim_wrapper.optimizer.lr == pytest.approx(0.05)
    assert config.param_scheduler[1].milestones == [15]
    assert config.param_scheduler[0].end == 2
    assert changes == ["batch 2 instead of 4", "20 iterations instead of 40", "learning rate 0.05"]
    with pytest.raises(BadInput, match="multiple of 4"):
        apply_options(config, dataclasses.replace(job, world=4), SCHEDULE)
