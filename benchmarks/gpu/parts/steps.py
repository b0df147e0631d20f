"""Steps of one method through `pretrain.train.train`: waits of the host, precision of the convolutions, losses.

`steps:odc`. The losses are those of the CPU in float32 up to the rounding of each precision."""

from __future__ import annotations

import contextlib
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pretrain.train import train
from torch import nn

from benchmarks.gpu.part import Figures, NotRun, Part
from benchmarks.gpu.training import after_each_step, losses_of, settings_of

N_WARM = 20  # steps before: the queue is full, kernels are compiled, cuDNN has chosen its algorithms
MOST_WAITS = {"odc": 1}  # in a step; whether a cluster is small decides what comes next. 0 for the others
N_WATCHED = 3


def run(part: Part, method: str) -> None:
    part.try_(f"{method}: waits of a step", lambda: waits(part, method))
    part.try_(f"{method}: {N_WATCHED} steps in which a wait is an error", lambda: no_wait(part, method))
    part.try_(f"{method}: bf16 is bf16", lambda: precision(part, method))
    part.try_(f"{method}: losses", lambda: losses(part, method))


def waits(part: Part, method: str) -> Figures:
    """By torch's warnings; on the pretended GPU, by its log."""
    if part.mode == "cpu":
        raise NotRun("needs a GPU, or --pretend")
    found: Counter[str] = Counter()
    if part.pretended is not None:
        with contextlib.ExitStack() as stack:
            log: Any = None

            def begin() -> None:
                nonlocal log
                log = stack.enter_context(part.pretended.watched())

            watched(part, method, begin, lambda: found.update(log.waits))
    else:
        with shown_waits(found):
            watched(part, method, lambda: sync_debug("warn"), lambda: sync_debug("default"))
    a_step = found.total() / N_WATCHED
    text = "; ".join(f"{n} x {where}" for where, n in found.most_common(8))
    return {"ok": a_step <= MOST_WAITS.get(method, 0), "waits a step": a_step, "text": text}


def sync_debug(mode: str) -> None:
    torch.cuda.set_sync_debug_mode(mode)


def no_wait(part: Part, method: str) -> Figures:
    part.needs_gpu()
    if MOST_WAITS.get(method):
        raise NotRun("one wait is allowed, and the row above counts it")
    try:
        watched(part, method, lambda: sync_debug("error"), lambda: sync_debug("default"))
    finally:
        sync_debug("default")
    return {"ok": True}


def watched(part: Part, method: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Train; `begin` is called after a few steps, `end` N_WATCHED steps later."""
    n_warm = part.size(N_WARM, 4)

    def look(_: Any, run: Any, __: Any) -> None:
        if run.step + 1 == n_warm:
            begin()
        elif run.step + 1 == n_warm + N_WATCHED:
            end()

    # an epoch that is longer, and no line of metrics before the last step: both wait, and may
    more = part.size({"data": "shapes:n=4096,n_val=64", "batch": 128}, {"data": "shapes:n=160,n_val=16"})
    more |= {"max_steps": n_warm + N_WATCHED, "log_every": 1000}
    with tempfile.TemporaryDirectory() as folder, after_each_step(method, look):
        train(settings_of(part, method, Path(folder) / "run", **more))


@contextlib.contextmanager
def shown_waits(found: Counter[str]) -> Iterator[None]:
    """Count torch's warnings of a wait by the innermost line of ours, and torch's own below it."""

    def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "called a synchronizing" not in str(message):
            return
        stack = traceback.extract_stack()[:-1]
        last = ([f for f in stack if any(f"/{name}/" in f.filename for name in OURS)] or stack)[-1]
        found[f"{Path(last.filename).name}:{last.lineno} {(last.line or '')[:60]}"] += 1

    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            yield
        finally:
            warnings.showwarning = before


OURS = ("pretrain", "cluster_memory", "sinkhorn", "multicrop_aug", "eval_probes", "indexed_images", "sobel_resnet")


def precision(part: Part, method: str) -> Figures:
    """Dtypes that come out of the convolutions of training steps."""
    dtypes: Counter[str] = Counter()

    def note(module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad and torch.is_grad_enabled():
            dtypes[str(out.dtype).removeprefix("torch.")] += 1

    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        losses_of(part, method, 2, precision="bf16")
    finally:
        hook.remove()
    return {"ok": set(dtypes) == {"bfloat16"}, "text": ", ".join(f"{n} x {dtype}" for dtype, n in dtypes.items())}


def losses(part: Part, method: str) -> Figures:
    """Of three steps. A clustering follows from features, and rounding moves some images: only the first step, of equal
    weights, has a bound. TF32 is off, dropout too: its generator is the device's."""
    n_steps = 3
    # what a CPU does in seconds
    more: dict[str, Any] = part.size({"data": "shapes:n=1024,n_val=64", "width": 0.5, "batch": 128, "k": 50}, {})
    more |= {"neck_dropout": 0.0} if method == "odc" else {}
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        on_cpu = losses_of(part, method, n_steps, precision="32", **more | {"device": "cpu"})
        in_32, in_bf16 = (losses_of(part, method, n_steps, precision=p, **more) for p in ("32", "bf16"))
    finally:
        torch.backends.cudnn.allow_tf32 = before
    off = {
        name: [abs(a / b - 1) for a, b in zip(found, on_cpu, strict=True)]
        for name, found in (("float32", in_32), ("bf16", in_bf16))
    }
    figures: Figures = {"CPU, float32": on_cpu[0]}
    for name, found in off.items():
        figures |= {f"{name} off, step 1": found[0], f"{name} off, step {n_steps}": found[-1]}
    return {"ok": off["float32"][0] < 1e-3 and off["bf16"][0] < 3e-2} | figures
