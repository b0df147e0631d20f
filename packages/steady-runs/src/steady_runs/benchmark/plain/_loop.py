"""A training loop without a toolbox, for any network and data: learning rate, checkpoints, scores, resume.

All that is random has a key of seed and step: a run that was cut off goes on bit by bit as if it had not been (on the
CPU; GPUs add in any order)."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from steady_runs._errors import BadInput, Interrupted, TrainingFailed
from steady_runs._job import Job
from steady_runs.plain._order import Order, batches, seed_of

Metrics = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """iterations; batch: over all ranks; lr: its highest; every: iterations from score to score; changes: what departs
    from the protocol; share: iterations of this run by those of the protocol."""

    iterations: int
    batch: int
    lr: float
    every: int
    share: float
    changes: tuple[str, ...]


def make_plan(job: Job, *, iterations: int, batch: int, lr: float, every: int) -> Plan:
    """The protocol's figures, changed by the options. BadInput if the ranks cannot share the batch."""
    options = job.options
    of_run, images = options.iterations or iterations, options.batch or batch
    if images % job.world:
        raise BadInput(f"--batch {images} cannot be shared by {job.world} processes; take a multiple of {job.world}")
    changes = []
    if images != batch:
        changes.append(f"batch {images} instead of {batch}")
    if of_run != iterations:
        changes.append(f"{of_run} iterations instead of {iterations}")
    if options.lr_rule == "linear" and images != batch:
        lr = lr * images / batch
        changes.append(f"learning rate {lr:g}")
    return Plan(of_run, images, lr, min(every, of_run), of_run / iterations, tuple(changes))


@contextlib.contextmanager
def machine(job: Job) -> Iterator[torch.device]:
    """The device of this rank, and all ranks as one group while the context is open."""
    available = torch.cuda.is_available()
    if job.options.device == "cuda" and not available:
        raise BadInput("--device cuda: no GPU that torch can use; take --device auto, or install a torch with CUDA")
    cuda = available and job.options.device != "cpu"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if job.world == 1:
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    yield device
    dist.destroy_process_group()  # not after an error, where others may be gone


def main_rank_first(job: Job, work: Callable[[], Any]) -> Any:
    """Rank 0 makes files that the others read."""
    made = work() if job.rank == 0 else None
    if job.world > 1:
        dist.barrier()
    return made if job.rank == 0 else work()


@dataclass(frozen=True)
class Trained:
    """Metrics after and, if taken, before training; on rank 0, empty on others."""

    metrics: Metrics
    untrained: Metrics | None


def train(
    job: Job,
    plan: Plan,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    images: Dataset[Any],
    loss_of: Callable[[nn.Module, list[Any]], Tensor],
    score: Callable[[nn.Module], Metrics],
) -> Trained:
    """Train `network`, in place and on the device that it is on.

    lr_at: step, counted from 0 -> learning rate. images: a data set with keys (see `Order`). loss_of: (network in
    training mode, list of images) -> loss. score: network in evaluation mode -> metrics in percent, on rank 0.
    Raises TrainingFailed if the loss is not finite, Interrupted (after a checkpoint) if told to stop, BadInput if there
    is nothing to resume."""
    device = next(network.parameters()).device
    step, scored_at, losses, untrained = 0, 0, [], None
    if job.resumed:
        saved = load_checkpoint(job)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        step, scored_at, losses, untrained = (saved[name] for name in ("step", "scored_at", "losses", "untrained"))
        if job.rank == 0:
            job.folder.keep_metrics(step)
    parallel = network
    if job.world > 1:
        parallel = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def save() -> None:
        if job.rank == 0:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            figures = {"scored_at": scored_at, "losses": losses, "untrained": untrained}
            save_checkpoint(job.folder.path, state | figures)

    def scored(**more: bool) -> Metrics:
        if job.world > 1:  # ranks without synchronised batch norm have statistics of their own
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)
        network.eval()
        with torch.no_grad():
            metrics = score(network)
        if job.rank == 0:
            job.folder.append_metrics({"step": step, **metrics, **more})
        return metrics

    if not job.resumed:
        save()
    job.stop.defer()
    if step == 0 and untrained is None and (job.options.score_untrained or job.options.data == "shapes"):
        untrained = scored(untrained=True)
        save()

    log_every, checkpoint_every = 10 if plan.iterations < 2000 else 50, job.options.checkpoint_every or plan.every
    since, first = time.monotonic(), step
    order = Order(len(images), plan.batch, job, first=step, last=plan.iterations)  # type: ignore[arg-type]  # has a length
    for batch in batches(images, job, order):
        if step % plan.every == 0 and step > scored_at:
            scored()
            scored_at = step
            save()
            since, first = time.monotonic(), step  # the score's time is not the training's
        # torchvision's samplers and scales and the networks' dropout draw from the global generator and no other
        torch.manual_seed(seed_of(job.options.seed, "step", step, job.rank))
        parallel.train()
        loss = loss_of(parallel, batch)
        mean, stop = _of_all_ranks(job, loss, job.stop.asked)
        if not math.isfinite(mean):
            raise TrainingFailed(
                f"the loss is {mean} at iteration {step + 1}: give a smaller --batch with --lr-rule linear, "
                f"or look for broken annotations; the last good state is in {job.folder.path}"
            )
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        losses.append(mean)

        if step % log_every == 0 or step == plan.iterations:
            now, average = time.monotonic(), sum(losses) / len(losses)
            speed = (step - first) * plan.batch / max(1e-9, now - since)
            if job.rank == 0:
                figures = {"step": step, "loss": average, "lr": lr_at(step - 1), "images_per_s": speed}
                job.folder.append_metrics(figures)
            more = f"iteration {step}/{plan.iterations} | {speed:.1f} img/s | loss {average:.3f}"
            job.progress.doing("training", step / plan.iterations, more)
            losses, since, first = [], now, step
        if stop or step == plan.iterations or step % plan.every == 0 or step % checkpoint_every == 0:
            save()
        if stop:
            raise Interrupted(f"stopped at iteration {step}; go on with: resume {job.folder.path}")
    return Trained(scored(), untrained)


def _of_all_ranks(job: Job, loss: Tensor, stop: bool) -> tuple[float, bool]:
    """(mean loss, whether any rank was told to stop): all ranks end at the same step, or none."""
    if job.world == 1:
        return float(loss.detach()), stop
    both = torch.stack([loss.detach().double(), torch.tensor(float(stop), dtype=torch.float64, device=loss.device)])
    dist.all_reduce(both)
    return float(both[0]) / job.world, bool(both[1] > 0)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """checkpoint.pt, whole or not at all; the one before stays as checkpoint.previous.pt."""
    path, part = folder / "checkpoint.pt", folder / "checkpoint.part"
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, folder / "checkpoint.previous.pt")
    os.replace(part, path)


def load_checkpoint(job: Job) -> dict[str, Any]:
    """The newest checkpoint that can be read without running code from it, on the CPU."""
    for path in (job.folder.path / "checkpoint.pt", job.folder.path / "checkpoint.previous.pt"):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except FileNotFoundError:
            continue
        except Exception as error:  # bytes that are not a checkpoint's end anywhere in the reader, with any error
            job.progress.say(f"{path} cannot be read ({type(error).__name__}); trying the one before")
    raise BadInput(f"{job.folder.path}: no checkpoint that can be read, so nothing to resume; start the run anew")
