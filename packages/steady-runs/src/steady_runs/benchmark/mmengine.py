"""Runs an MMEngine config as a benchmark run, with progress, metrics.jsonl, checkpoints without code, and resume.

Needs the `openmmlab` extra. The toolbox's own log goes to log.txt in the run folder.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from steady_runs.benchmark.app import Job
from steady_runs.device import use_cuda
from steady_runs.errors import BadInput, Interrupted, TrainingFailed, from_worker

Metrics = dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """The published figures of a protocol.

    Attributes:
        iterations: Of training.
        batch: Images per iteration over all GPUs.
        warmup: Iterations of linear warm-up.
        milestones: Iterations after which the learning rate falls tenfold; empty for a polynomial schedule.
        evaluate_every: Iterations between scores.
    """

    iterations: int
    batch: int
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    evaluate_every: int = 2000


def apply_options(config: Config, job: Job[Any], schedule: Schedule) -> list[str]:
    """Write batch size, iterations, learning rate, devices and worker processes into `config`.

    Args:
        config: MMEngine config; changed in place.
        job: The run, with its options.
        schedule: The protocol's figures.

    Returns:
        One line for each figure that differs from the protocol.

    Raises:
        BadInput: If the batch size is not a multiple of the number of ranks, or there is no GPU for `--device cuda`.
    """
    options = job.options
    changes: list[str] = []
    batch = options.batch or schedule.batch
    if batch % job.world:
        raise BadInput(f"--batch {batch} cannot be shared by {job.world} processes; take a multiple of {job.world}")
    iterations = options.iterations or schedule.iterations
    if batch != schedule.batch:
        changes.append(f"batch {batch} instead of {schedule.batch}")
    if iterations != schedule.iterations:
        changes.append(f"{iterations} iterations instead of {schedule.iterations}")
    optimizer = config.optim_wrapper.optimizer
    if options.lr_rule == "linear" and batch != schedule.batch:
        optimizer.lr = optimizer.lr * batch / schedule.batch
        changes.append(f"learning rate {optimizer.lr:g}")

    share = iterations / schedule.iterations
    for one in config.param_scheduler:
        one.by_epoch = False
        if one.type == "LinearLR":
            one.end = min(schedule.warmup, max(1, iterations // 10))
        elif one.type == "MultiStepLR":
            one.end, one.milestones = iterations, [max(1, round(m * share)) for m in schedule.milestones]
        else:
            one.end = iterations
    # drawn images are scored only at the end, as scoring them takes as long as many training steps
    every = iterations if options.data == "shapes" else min(schedule.evaluate_every, iterations)
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=every)

    workers = 0 if options.data == "shapes" else 2
    workers = workers if options.workers is None else options.workers
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.num_workers, loader.persistent_workers = workers, workers > 0
    config.train_dataloader.batch_size = batch // job.world
    config.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True, seed=options.seed)
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    config.test_cfg = dict(type="TestLoop")

    cuda = use_cuda(options.device)
    config.sync_bn = "torch" if cuda else None  # only has an effect with several processes
    config.launcher = "pytorch" if job.world > 1 else "none"
    config.env_cfg.dist_cfg = dict(backend="nccl" if cuda else "gloo")
    if job.world > 1 and not cuda:
        config.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
        changes.append("batch norm of each process by itself, on CPUs")
    config.randomness = dict(seed=options.seed)
    config.default_hooks.checkpoint = dict(
        type="CheckpointHook", by_epoch=False, interval=options.checkpoint_every or every, max_keep_ckpts=2
    )
    config.default_hooks.logger = dict(type="LoggerHook", interval=50, log_metric_by_epoch=False)
    config.default_hooks.pop("visualization", None)
    config.visualizer.vis_backends = []
    config.log_processor = dict(by_epoch=False)
    config.work_dir = str(job.folder.path / "checkpoints")
    return changes


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes:
        runner: MMEngine's runner with the trained model.
        metrics: Metrics after training, in percent.
        untrained: The same before training; None if they were not measured.
    """

    runner: Runner
    metrics: Metrics
    untrained: Metrics | None


def run_mmengine(
    config: Config,
    job: Job[Any],
    to_columns: Callable[[dict[str, Any]], Metrics],
    on_start: Callable[[Runner], None] = lambda runner: None,
) -> Trained:
    """Train and score an MMEngine config. A resumed job continues from its newest checkpoint.

    Writes config.py and model.pth into the run folder, which the toolbox's own inference functions open.

    Args:
        config: Config, after `apply_options`.
        job: The run.
        to_columns: The evaluator's metrics -> {column: percent}.
        on_start: Called with the initialised model before the first step of a new run.

    Raises:
        TrainingFailed: If the loss is not finite.
        Interrupted: If the run was told to stop; a checkpoint is written.
        BadInput: If there is no checkpoint to resume from, or a worker process raised it.
    """
    if not use_cuda(job.options.device) and torch.cuda.is_available():
        raise BadInput("--device cpu on a machine with a GPU: hide it instead, with CUDA_VISIBLE_DEVICES=-1")
    if job.rank == 0:
        config.dump(job.folder.path / "config.py")
    if job.resumed:
        checkpoint, step = _newest(Path(config.work_dir), job)
        config.load_from, config.resume = str(checkpoint), True
        # With another seed the rest of the run does not repeat the images of its first steps. MMEngine would otherwise
        # load all images that the first part has seen, to skip them.
        config.train_dataloader.sampler.seed = job.options.seed + step
        config.train_cfg.fast_forward_on_resume = True
        if job.rank == 0:
            job.folder.keep_metrics(lambda line: line.get("step", 0) <= step)
    watch = _Watch(job, to_columns, on_start)
    if job.world > 1 and config.env_cfg.dist_cfg.backend == "gloo":
        dist.init_process_group("gloo")  # MMEngine's own initialisation needs a GPU
    with _log(job.folder.path / "log.txt", job.rank) as log:
        runner = _Runner.from_cfg_with_log(config, log)
        runner.register_hook(watch, priority="LOWEST")
        try:
            runner.train()
            if watch.last is None:  # the run was interrupted between its last step and its score
                runner.val_loop.run()
        except BadInput as error:
            raise from_worker(error) from None
    if job.rank == 0:
        state = {"meta": {"dataset_meta": runner.val_dataloader.dataset.metainfo}, "state_dict": _weights(runner)}
        torch.save(state, job.folder.path / "model.pth")
    if dist.is_initialized():
        dist.destroy_process_group()  # all ranks are done with each other
    assert watch.last is not None
    return Trained(runner, watch.last, watch.untrained)


class _Watch(Hook):
    """Hook that writes metrics, shows progress, and stops at a signal or a loss that is not finite."""

    def __init__(
        self, job: Job[Any], to_columns: Callable[[dict[str, Any]], Metrics], on_start: Callable[[Runner], None]
    ) -> None:
        self.job, self.to_columns, self.on_start = job, to_columns, on_start
        self.last: Metrics | None = None
        self.untrained: Metrics | None = None
        self._losses: list[float] = []
        self._since = time.monotonic()
        self._images = 0
        self._scoring_untrained = False

    def before_train(self, runner: Runner) -> None:
        self.job.stop.defer()
        if runner.iter == 0:
            self.on_start(runner)
        self.every = 10 if runner.max_iters < 2000 else 50
        if runner.iter == 0 and (self.job.options.score_untrained or self.job.options.data == "shapes"):
            self._scoring_untrained = True
            runner.val_loop.run()
            self._scoring_untrained = False
        elif runner.iter:
            before = [line for line in self.job.folder.read_metrics() if line.get("untrained")]
            self.untrained = {k: v for k, v in before[0].items() if k not in ("step", "untrained")} if before else None
        self._since = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        step = runner.iter + 1
        self._losses.append(float(outputs["loss"].detach()) if outputs else math.nan)
        self._images += runner.train_dataloader.batch_size or len(data_batch["inputs"])
        if not math.isfinite(self._losses[-1]):
            raise TrainingFailed(
                f"the loss is {self._losses[-1]} at iteration {step}: give a smaller --batch with --lr-rule linear, "
                f"or look for broken annotations; the last good state is in {runner.work_dir}"
            )
        if step % self.every == 0 or step == runner.max_iters:
            self._write(runner, step)
        if self.job.stop.asked:
            runner.save_checkpoint(runner.work_dir, f"iter_{step}.pth", by_epoch=False)
            raise Interrupted(f"stopped at iteration {step}; go on with: resume {self.job.folder.path}")

    def _write(self, runner: Runner, step: int) -> None:
        now = time.monotonic()
        speed = self._images * self.job.world / max(1e-9, now - self._since)
        loss = sum(self._losses) / len(self._losses)
        figures = {"step": step, "loss": loss, "lr": runner.optim_wrapper.get_lr()["lr"][0], "images_per_s": speed}
        if self.job.rank == 0:
            self.job.folder.append_metrics(figures)
        more = f"iteration {step}/{runner.max_iters} | {speed:.1f} img/s | loss {loss:.3f}"
        self.job.progress.doing("training", step / runner.max_iters, more)
        self._losses, self._images, self._since = [], 0, now

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        what = "scoring the untrained network" if self._scoring_untrained else "scoring"
        self.job.progress.doing(what, (batch_idx + 1) / len(runner.val_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        columns = self.to_columns(metrics or {})
        line: dict[str, Any] = {"step": runner.iter, **columns}
        if self._scoring_untrained:
            self.untrained, line = columns, line | {"untrained": True}
        else:
            self.last = columns
        if self.job.rank == 0:
            self.job.folder.append_metrics(line)
        self._since = time.monotonic()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        # the hub's log is in metrics.jsonl already, and torch.load cannot read its objects with weights_only
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}


class _Runner(Runner):
    """A runner that logs to a file only."""

    _log: TextIO

    @classmethod
    def from_cfg_with_log(cls, config: Config, log: TextIO) -> _Runner:
        cls._log = log
        runner: _Runner = cls.from_cfg(config)
        return runner

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.addHandler(logging.StreamHandler(self._log))
        return logger

    def dump_config(self) -> None:
        """Do nothing: `run_mmengine` writes config.py."""


@contextlib.contextmanager
def _log(path: Path, rank: int) -> Iterator[TextIO]:
    """Redirect what the toolboxes and pycocotools print, and warnings, to a file: the terminal shows progress."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((path if rank == 0 else Path(os.devnull)).open("a"))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = lambda message, category, filename, line, *_: print(
            f"{category.__name__}: {message} ({filename}:{line})", file=file
        )
        yield file


def _newest(folder: Path, job: Job[Any]) -> tuple[Path, int]:
    """The newest checkpoint that torch.load reads with weights_only, and its iteration."""
    found = sorted(folder.glob("iter_*.pth"), key=lambda p: int(p.stem.removeprefix("iter_")), reverse=True)
    for path in found:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            return path, int(state["meta"]["iter"])
        except Exception as error:  # torch.load raises errors of any kind for damaged files
            job.progress.say(f"{path} cannot be read ({type(error).__name__}); trying the one before")
    raise BadInput(f"{folder}: no checkpoint that can be read, so nothing to resume; start the run anew")


def _weights(runner: Runner) -> dict[str, torch.Tensor]:
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}
