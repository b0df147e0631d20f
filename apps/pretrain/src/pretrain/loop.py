"""The training loop of every method, from top to bottom: machine, data, network, resume, loop, result."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from sobel_resnet import save_backbone
from torch import Tensor
from steady_runs import duration

from pretrain.board import Board
from pretrain.build import build_method, build_optimizer
from pretrain.checkpoint import Checkpoints
from pretrain.clock import Clock
from pretrain.config import Settings, parse_every
from pretrain.data import class_labels, eval_recipe, open_for_training, open_for_validation, train_recipe
from pretrain.errors import BadInput, TrainingFailed, WorkerLost, one_line
from pretrain.evaluate import KnnScore
from pretrain.interrupt import Interrupted, Moments, StopRequested, StopSignal
from pretrain.keys import key, permutation
from pretrain.loader import Loader
from pretrain.parts import check_parts
from pretrain.rendezvous import adopt_slurm_tasks, join_ranks
from pretrain.report import write_report
from pretrain.run import Run
from pretrain.run_folder import RunFolder
from pretrain.schedule import lr_at
from pretrain.sources import Source
from pretrain.step import NOT_FINITE, update
from pretrain.sync_batch_norm import batch_norm_group
from pretrain.terminal import Screen
from pretrain.watch import Watch
from pretrain.workers import Pool, default_workers


def train(settings: Settings, *, resume: RunFolder | None = None) -> None:
    """Do what `settings` say in a new run folder; with `resume`, go on from that folder's checkpoint.

    Raises BadInput, TrainingFailed, or Interrupted (after writing a checkpoint)."""
    began = time.monotonic()

    # ---- machine ----
    fabric = _launch(settings)
    world, rank, main = fabric.world_size, fabric.global_rank, fabric.global_rank == 0
    screen = Screen(quiet=settings.quiet, main=main)

    # ---- data ----
    images = open_for_training(settings)
    queries = open_for_validation(settings)
    n, batch = len(images), min(settings.batch, len(images))
    if n < 4:
        raise BadInput(f"--data {settings.data}: {n} image(s), and clustering needs at least 4, better hundreds")
    if batch < 2 * world:
        raise BadInput(f"--batch {batch} is less than 2 images for each of {world} processes; enlarge it")
    check_parts(batch, world, settings.micro_batch)
    steps_per_epoch = n // batch if settings.drop_last else math.ceil(n / batch)
    last_step = min(settings.epochs * steps_per_epoch, settings.max_steps or 2**62)

    cuda = fabric.device.type == "cuda"
    loading: dict[str, Any] = {"seed": settings.seed, "device": fabric.device}
    if cuda and settings_precision(fabric) != "32-true":
        loading["dtype"] = torch.bfloat16  # what autocast would make of them
    source = Source.of(images, settings.resident, fabric.device, screen.doing)
    held_out = None if queries is None else Source.of(queries, settings.resident, fabric.device, screen.doing)
    every_resident = all(one.pixels is not None for one in (source, held_out) if one is not None)
    n_workers = default_workers(every_resident, cuda) if settings.workers is None else settings.workers
    loading["pool"] = Pool(n_workers, pin_memory=cuda)
    crops_of = Loader(source, train_recipe(settings), **loading)
    centres_of = Loader(source, eval_recipe(settings), **loading)
    queries_of = None if held_out is None else Loader(held_out, eval_recipe(settings), **loading)

    # ---- network ----
    group = torch.distributed.group.WORLD if world > 1 else None
    bn_group = batch_norm_group(settings, group)
    method = build_method(settings, n, group, bn_group=bn_group, cuda=cuda)
    backbone = method.backbone
    network, optimizer = fabric.setup(method, build_optimizer(method, settings, cuda=cuda))
    network.mark_forward_method("loss")
    together = min(batch, (settings.micro_batch or batch) * world)
    run = Run(fabric, method, centres_of, crops_of, n, steps_per_epoch, batch, together, progress=screen.doing)
    watch = Watch(method, steps_per_epoch, settings.lr, stop=settings.on_collapse == "stop")
    score = None
    if (labels := class_labels(images)) is not None:
        score = KnnScore.prepare(labels, settings.knn_images, settings.seed)
        if queries is not None:
            score = replace(score, queries=queries_of, query_labels=queries.labels)

    # ---- folder, resume ----
    resume = resume or RunFolder.of_restart(settings)
    folder = resume or (RunFolder.create(settings.out, settings) if main else RunFolder.nowhere())
    checkpoints = Checkpoints(folder.path)
    saved: dict[str, Any] = {}
    if resume is not None:
        if main:  # it puts a damaged one aside, before the others look
            found, warning = checkpoints.load()
            saved = found or {}
            folder.keep_metrics(line for line in folder.read_metrics() if _is_before(line, saved.get("step", -1)))
            if warning:
                screen.say(warning)
        fabric.barrier()
        if not main:
            saved = checkpoints.load()[0] or {}
    elif main:
        folder.write_config(settings)
    if saved:
        if saved.get("n_images", n) != n:
            raise BadInput(
                f"--data {settings.data}: {n:,} images, and {saved['n_images']:,} when the run began; memories go by "
                f"the number of an image, so put them back, or start a new run"
            )
        method.load_state_dict(saved["method"])
        optimizer.load_state_dict(saved["optimizer"])
        watch.load_state_dict(saved["watch"])
        run.step = saved["step"]
    every, seconds = parse_every(settings.checkpoint_every or str(min(1000, steps_per_epoch)))
    clock = Clock(fabric.device, saved.get("clock"))
    board = Board(folder.path / "tensorboard", run.step) if main else None

    def record(figures: dict[str, Any]) -> None:
        if board is not None:
            folder.append_metrics(figures)
            board.add({k: v for k, v in figures.items() if k not in ("step", "epoch", "final")}, figures["step"])

    def checkpoint(order: Tensor | None, losses: list[Tensor]) -> None:
        is_finite = watch.is_finite(losses)
        state = method.state_dict()  # on every rank: a memory may be spread over them
        if main:
            saved_it = checkpoints.save(
                {
                    "settings": settings.model_dump(mode="json", exclude_none=True),
                    "method": state,
                    "optimizer": optimizer.state_dict(),
                    "watch": watch.state_dict(),
                    "step": run.step,
                    "n_images": n,
                    "order": order,
                    "begun": begun,
                    "losses": torch.stack(losses) if losses else [],
                    "clock": clock.total,
                    "knn_top1_random_init": knn_before,
                    "wall_s": saved.get("wall_s", 0.0) + time.monotonic() - began,
                },
                provided=is_finite,
            )
        else:
            saved_it = bool(is_finite)
        if not saved_it:
            watch.refuse_to_save(run.step)
        moments.saved(run.step)

    screen.say(
        f"{settings.method} on {n:,} images of {settings.data}: {method.k} clusters, {settings.epochs} epochs of "
        f"{steps_per_epoch} steps, batch {batch}, {settings.arch} on {world} x {fabric.device.type} "
        f"({settings_precision(fabric)}); run folder {folder.path}"
    )

    for remark in (source.remark, method.remark):
        if remark:
            screen.say(remark)
    go_on = f"; go on with: uv run apps/pretrain resume {folder.path}" if main else ""

    with StopSignal() as signal, checkpoints, screen:
        moments = Moments(signal, group, every=every, seconds=seconds)
        order: Tensor | None = saved.get("order")
        begun: int | None = saved.get("begun")  # the epoch that the order is of
        # a list of numbers in checkpoints before 0.2
        losses = [loss.to(fabric.device) for loss in torch.as_tensor(saved.get("losses", []))]
        try:
            # ---- start ----
            knn_before = knn = saved.get("knn_top1_random_init")
            if not saved:
                if score is not None:
                    knn_before = knn = score.top1(run, backbone)
                    record({"step": 0, "epoch": 0, "knn_top1": knn})
                    screen.say(f"kNN top-1 of the random network: {knn:.1f} %")
                with clock.section("method"):
                    method.start(run)
                checkpoint(None, [])
            signal.defer()  # from here on a signal ends the run after the step at hand
            run.between_batches = moments.between_batches

            # ---- loop ----
            window_s, window_steps = time.monotonic(), 0
            clustering_s, last_epoch = 0.0, math.ceil(last_step / steps_per_epoch) - 1
            for epoch in range(run.step // steps_per_epoch, settings.epochs):
                if run.step >= last_step:
                    break
                done = run.step - epoch * steps_per_epoch
                if score is not None and not done and epoch and settings.knn_every and epoch % settings.knn_every == 0:
                    knn = score.top1(run, backbone)
                    record({"step": run.step, "epoch": epoch - 1, "knn_top1": knn})
                    window_s, window_steps = time.monotonic(), 0  # the score's time is not the training's
                # of an epoch that had begun, though it may have done no step yet
                order = saved.pop("order", None) if begun == epoch else None
                if order is None:
                    began_s = time.monotonic()
                    with clock.section("method"):
                        order = method.begin_epoch(run, epoch)
                    clustering_s = time.monotonic() - began_s  # the rate leaves it out, the time left does not
                    window_s += clustering_s
                if order is None:
                    order = _whole_batches(permutation(n, settings.seed, "order", epoch), steps_per_epoch * batch)
                begun = epoch
                batches = [
                    b.tensor_split(world)[rank] for b in order.split(batch)[done : last_step - epoch * steps_per_epoch]
                ]
                for crops, indices in crops_of.batches(epoch, batches, clock):
                    torch.manual_seed(
                        key(settings.seed, "dropout", run.step, rank)
                    )  # the one use of a global generator
                    lr = lr_at(run.step, steps_per_epoch, settings)
                    try:
                        with clock.section("network"):
                            loss = update(fabric, network, optimizer, crops, indices, step=run.step, lr=lr)
                        with clock.section("method"):
                            method.after_step(run, indices)
                    except NOT_FINITE as error:  # codes and memories refuse such numbers before they are spoilt
                        raise TrainingFailed(
                            f"step {run.step + 1}: {error}; lower --lr ({settings.lr:g} now), or use --precision 32"
                        ) from None

                    run.step += 1
                    losses.append(run.mean(loss))
                    window_steps += 1
                    if run.step % settings.log_every == 0 or run.step == last_step:
                        measured = watch.measure(losses)  # the one wait for a GPU
                        now = time.monotonic()
                        rate = window_steps / max(now - window_s, 1e-9)  # steps a second
                        figures = {
                            "step": run.step,
                            "epoch": epoch,
                            "loss": measured.pop("loss"),
                            "lr": lr,
                            **measured,
                            "images_per_s": rate * batch,
                            **clock.figures(),
                        }
                        watch.refuse_what_is_not_finite(figures)
                        record(figures)
                        if warning := watch.look(figures):
                            screen.say(warning)
                        left_s = (last_step - run.step) / rate + clustering_s * (last_epoch - epoch)
                        share = run.step / last_step
                        screen.step(
                            {**figures, "epochs": settings.epochs, "left_s": left_s, "share": share, "knn_top1": knn}
                        )
                        losses, window_s, window_steps = [], now, 0
                    save, stop = moments.after_step(run.step)
                    if save:
                        checkpoint(order, losses)
                    if stop:
                        raise StopRequested
            if moments.saved_step != run.step:  # --max-steps may end it in the middle of an epoch
                checkpoint(order, losses)
            checkpoints.wait()  # a full disk is to be heard of before the result

            # ---- result ----
            if score is not None:
                knn = score.top1(run, backbone)
            final: dict[str, Any] = {"step": run.step, "epoch": (run.step - 1) // steps_per_epoch, "final": True}
            if knn is not None:
                final |= {"knn_top1": knn, "knn_top1_random_init": knn_before}
            about = {
                "method": settings.method,
                "data": settings.data,
                "step": str(run.step),
                "seed": str(settings.seed),
            }
            if main:
                save_backbone(backbone, folder.backbone, metadata=about)
            shown = None
            if settings.report:  # after the backbone is safe: features of many images may not fit
                shown = run.extract(backbone, what="features for the report"), method.assign(run)
            if main:
                clock.figures()
                final |= {f"time_{name}": seconds for name, seconds in clock.total.items()}
                final["wall_s"] = saved.get("wall_s", 0.0) + time.monotonic() - began
                record(final)
                if shown is not None:
                    write_report(folder, settings, images, *shown)
        except StopRequested:
            if moments.saved_step != run.step:  # told while features were extracted, which changes nothing
                checkpoint(order, losses)
            raise Interrupted(f"stopped at step {run.step}{go_on}") from None
        except WorkerLost as error:  # between two steps: all that was learnt is whole
            if signal.deferred and world == 1 and moments.saved_step != run.step:
                checkpoint(order, losses)
            raise WorkerLost(f"{error}{go_on}") from None
    if board is not None:
        board.close()
    scored = f"kNN top-1  {knn_before:.1f} % -> {knn:.1f} %   (random network -> trained)\n" if knn is not None else ""
    if images.skipped:
        first = images.skipped[0]
        files = "1 damaged file was" if len(images.skipped) == 1 else f"{len(images.skipped)} damaged files were"
        screen.say(f"{files} replaced by others; the first: {one_line(first.path)} ({first.reason})")
    report = f"report     {folder.report}   (open it in a browser)\n" if settings.report else ""
    screen.say(
        f"{scored}"
        f"backbone   {folder.backbone}\n"
        f"{report}"
        f"took       {duration(saved.get('wall_s', 0.0) + time.monotonic() - began)}: {clock.summary()}\n"
        f"next       uv run apps/classify   (every benchmark of this backbone)\n"
        f"           uv run apps/pretrain {settings.method} --data folder:PATH   (your own images, labels or not)",
        even_quiet=True,
    )


def _launch(settings: Settings) -> Fabric:
    """One process as it is; under torchrun or Slurm, one of many."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the first line of a run says device and precision
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: no GPU that torch can use; take --device auto, or install a torch with CUDA")
    accelerator = settings.device if settings.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    precision = settings.precision
    if precision == "auto":
        # bf16 without matrix units is slower than float32
        precision = "bf16" if accelerator == "cuda" or torch.cpu._is_amx_tile_supported() else "32"
    torch.backends.cudnn.benchmark = True
    adopt_slurm_tasks()
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    strategy: DDPStrategy | str = "auto"
    if world > 1:
        timeout = timedelta(seconds=settings.rank_timeout)
        join_ranks("nccl" if accelerator == "cuda" else "gloo", timeout)
        # the memories are the same on all ranks by construction; broadcasting a gigabyte each step would be waste
        strategy = DDPStrategy(forward_sync_buffers=False, timeout=timeout)
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=max(1, world // local),
        strategy=strategy,
        # named: Fabric would look for Slurm by itself, and advise whoever has it installed to use it
        plugins=[TorchElasticEnvironment() if world > 1 else LightningEnvironment()],
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def settings_precision(fabric: Fabric) -> str:
    return str(fabric._precision.precision)


def _is_before(line: dict[str, Any], step: int) -> bool:
    """Whether a run that goes on from `step` keeps the line; a score at that very step is taken again, but that
    of the random network is not."""
    taken_again = "loss" not in line and step > 0
    return "final" not in line and (line["step"] < step or (line["step"] == step and not taken_again))


def _whole_batches(order: Tensor, length: int) -> Tensor:
    """Cut, or pad with the order's own head, so that every batch is full: one image alone would break batch norm."""
    return torch.cat([order, order[: max(0, length - len(order))]])[:length]
