"""A training loop without a toolbox, for any network and data: learning rate, checkpoints, scores, resume.

Every random choice is keyed by seed and step. So a resumed run gives the same numbers as one that was not interrupted,
bit for bit on a CPU; on a GPU the order of summation varies.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from steady_runs.benchmark.app import Job
from steady_runs.benchmark.plain._order import Order, batches
from steady_runs.checkpoint import Checkpoints
from steady_runs.device import use_cuda
from steady_runs.errors import BadInput, Interrupted, TrainingFailed
from steady_runs.keys import key

Metrics = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The figures of a run.

    Attributes:
        iterations: Of training.
        batch: Images per iteration over all ranks.
        lr: Highest learning rate.
        every: Iterations between scores.
        share: Iterations of this run / those of the protocol.
        changes: One line for each figure that differs from the protocol.
    """

    iterations: int
    batch: int
    lr: float
    every: int
    share: float
    changes: tuple[str, ...]


def make_plan(job: Job[Any], *, iterations: int, batch: int, lr: float, every: int) -> Plan:
    """Apply the options to the protocol's figures.

    Args:
        job: The run.
        iterations: The protocol's iterations.
        batch: The protocol's batch size.
        lr: The protocol's highest learning rate.
        every: The protocol's iterations between scores.

    Raises:
        BadInput: If the batch size is not a multiple of the number of ranks.
    """
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
def machine(job: Job[Any]) -> Iterator[torch.device]:
    """A context with this rank's device. With several ranks, the default process group is open in it."""
    cuda = use_cuda(job.options.device)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if job.world == 1:
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    yield device
    dist.destroy_process_group()  # not after an error: it waits for the other ranks, which may be gone


def main_rank_first(job: Job[Any], work: Callable[[], Any]) -> Any:
    """Call `work` on rank 0, then on the others, which can read the files that rank 0 has made. Collective."""
    made = work() if job.rank == 0 else None
    if job.world > 1:
        dist.barrier()
    return made if job.rank == 0 else work()


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes:
        metrics: Metrics after training, in percent; empty on ranks other than 0.
        untrained: The same before training; None if they were not measured.
    """

    metrics: Metrics
    untrained: Metrics | None


def train(
    job: Job[Any],
    plan: Plan,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    images: Dataset[Any],
    loss_of: Callable[[nn.Module, list[Any]], Tensor],
    score: Callable[[nn.Module], Metrics],
) -> Trained:
    """Train a network in place, on the device that it is on. A resumed job continues from its checkpoint.

    Args:
        job: The run.
        plan: Its figures.
        network: Network to train.
        optimizer: Optimiser of its parameters.
        lr_at: Learning rate of a step, counted from 0.
        images: Data set that is indexed by keys; see `Order`.
        loss_of: (network in training mode, list of samples) -> loss.
        score: Network in evaluation mode -> metrics in percent on rank 0, {} on the others.

    Raises:
        TrainingFailed: If the loss is not finite.
        Interrupted: If the run was told to stop; the checkpoint is written.
        BadInput: If there is no checkpoint to resume from.
    """
    device, checkpoints = next(network.parameters()).device, Checkpoints(job.folder.path)
    step, scored_at, losses, untrained = 0, 0, [], None
    if job.resumed:
        # damaged files are renamed while loading: by rank 0 alone, before the others look
        saved = main_rank_first(job, lambda: load_checkpoint(job))
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        step, scored_at, losses, untrained = (saved[name] for name in ("step", "scored_at", "losses", "untrained"))
        if job.rank == 0:
            resumed_at = step
            job.folder.keep_metrics(lambda line: line.get("step", 0) <= resumed_at)
    parallel = network
    if job.world > 1:
        parallel = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def save() -> None:
        if job.rank == 0:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            figures = {"scored_at": scored_at, "losses": losses, "untrained": untrained}
            checkpoints.save(state | figures)

    def scored(**more: bool) -> Metrics:
        if job.world > 1:  # without synchronised batch norm, each rank has statistics of its own
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)
        network.eval()
        with torch.no_grad():
            metrics = score(network)
        if job.rank == 0:
            job.folder.append_metrics({"step": step, **metrics, **more})
        return metrics

    with checkpoints:
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
                since, first = time.monotonic(), step  # images_per_s leaves out the time of scoring
            # dropout and torchvision's samplers and image scales draw from the global generator
            torch.manual_seed(key(job.options.seed, "step", step, job.rank))
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
                checkpoints.wait()  # raises if it could not be written
                raise Interrupted(f"stopped at iteration {step}; go on with: resume {job.folder.path}")
        return Trained(scored(), untrained)


def _of_all_ranks(job: Job[Any], loss: Tensor, stop: bool) -> tuple[float, bool]:
    """(mean loss, whether any rank was told to stop), the same on all ranks, so that all stop after the same step."""
    if job.world == 1:
        return float(loss.detach()), stop
    both = torch.stack([loss.detach().double(), torch.tensor(float(stop), dtype=torch.float64, device=loss.device)])
    dist.all_reduce(both)
    return float(both[0]) / job.world, bool(both[1] > 0)


def load_checkpoint(job: Job[Any]) -> dict[str, Any]:
    """Load the newest whole checkpoint of the run onto the CPU. Reads files of earlier versions, without a hash, too.

    Raises:
        BadInput: If there is none.
    """
    state, warning = Checkpoints(job.folder.path).load(unhashed=True)
    if state is None:
        raise BadInput(f"{job.folder.path}: no checkpoint, so there is nothing to resume; start the run anew")
    if warning is not None:
        job.progress.say(warning)
    return state
