"""One part of the run, in a process of its own: `python -m benchmarks.gpu.part NAME --mode gpu --out FILE.json`.

A part is a module of `parts/` with `run(part)`. It reports rows: what was checked or measured, whether it held, and
figures. The file is written anew after each row, so a part that crashes or is stopped leaves the rows it had."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.pretend import pretended_device

MODES = ("gpu", "pretend", "cpu")
Figures = dict[str, Any]


class NotRun(Exception):
    """This cannot be run here; the message says why."""


class Part:
    """What a part is given: where it runs, how large, and where its rows go.

    mode: "gpu"; "pretend", CPU tensors that say they are on a GPU; "cpu". The last two use the small sizes."""

    def __init__(self, name: str, mode: str, out: Path, seconds: float) -> None:
        self.name, self.mode, self.out = name, mode, out
        self.device = torch.device("cpu" if mode == "cpu" else "cuda")
        self.until = time.monotonic() + seconds
        self.rows: list[Figures] = []
        self.pretended: Any = None  # the pretended device of the tests

    def size(self, gpu: Any, small: Any) -> Any:
        """`gpu` on a GPU, else `small`."""
        return gpu if self.mode == "gpu" else small

    def needs_gpu(self) -> None:
        if self.mode != "gpu":
            raise NotRun("needs a GPU")

    def try_(self, what: str, measure: Callable[[], Figures | None]) -> Figures | None:
        """Add the row of `measure`: its figures, with `ok` among them where something was checked.

        An exception becomes the row's result; the next rows follow. Only a CUDA error ends the part, because after one
        every later call of the process fails too."""
        began = time.monotonic()
        if began > self.until:
            return self._add(what, "not run: no time left", {})
        try:
            figures = measure() or {}
        except NotRun as reason:
            return self._add(what, f"not run: {reason}", {})
        except Exception as error:
            traceback.print_exc()
            self._add(what, f"failed: {_one_line(error)}", {"seconds": time.monotonic() - began})
            if "CUDA error" in str(error):
                raise SystemExit(f"{what}: {_one_line(error)}") from None
            return None
        ok = figures.pop("ok", None)
        result = "measured" if ok is None else "ok" if ok else "WRONG"
        return self._add(what, result, figures)

    def _add(self, what: str, result: str, figures: Figures) -> Figures:
        row = {"what": what, "result": result} | {name: plain(value) for name, value in figures.items()}
        self.rows.append(row)
        shown = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("what", "result"))
        print(f"{self.name}: {what}: {result}  {shown}", flush=True)
        self.write()
        return row

    def write(self) -> None:
        beside = self.out.with_suffix(".part")
        beside.write_text(json.dumps(self.rows))
        os.replace(beside, self.out)


def plain(value: Any) -> Any:
    """For JSON: floats to five digits, what is not finite as text."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else str(value)
    return value


def _one_line(error: BaseException) -> str:
    """The class, the first line, and the innermost line of our own code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_ours(f.filename)]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    first = str(error).strip().splitlines()[:1] or [""]
    return f"{type(error).__name__}: {first[0][:200]}{where}"


def _is_ours(filename: str) -> bool:
    ours = ("benchmarks", "pretrain", "cluster_memory", "sinkhorn", "multicrop_aug", "eval_probes", "indexed_images")
    return any(f"/{name}/" in filename for name in (*ours, "sobel_resnet"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="module of parts/, with an argument for it after a colon: steps:odc")
    parser.add_argument("--mode", choices=MODES, default="gpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600)
    given = parser.parse_args()
    module, _, argument = given.name.partition(":")
    part = Part(given.name, given.mode, given.out, given.seconds)
    part.write()
    if given.mode == "gpu" and not torch.cuda.is_available():
        sys.exit("no GPU that torch can use; take --cpu or --pretend to try the script itself")
    with pretended_device(given.mode == "pretend") as part.pretended:
        run = importlib.import_module(f"benchmarks.gpu.parts.{module}").run
        run(part, argument) if argument else run(part)


if __name__ == "__main__":
    from benchmarks.gpu import part  # the module that the parts import too: there must be one class NotRun

    part.main()
