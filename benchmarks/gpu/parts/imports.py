"""That everything can be imported, and what the machine is."""

from __future__ import annotations

import importlib
import platform
import time
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.part import Figures, NotRun, Part

OURS = ("cluster_memory", "eval_probes", "indexed_images", "multicrop_aug", "sinkhorn", "sobel_resnet")
APPS = ("steady_runs", "pretrain.cli", "pretrain.train", "classify", "detect", "segment")
# "?": a part that needs it says so, the others run
OTHERS = ("numpy", "numba", "lightning_fabric", "pydantic", "simplejpeg", "tomli_w", "sklearn", "torchvision")
RIVALS = ("triton?", "faiss?", "kornia?")
PIP = {"sklearn": "scikit-learn", "tomli_w": "tomli-w", "lightning_fabric": "lightning-fabric", "faiss": "faiss-cpu"}


def run(part: Part) -> None:
    part.try_("machine", lambda: machine(part))
    for name in (*OTHERS, *RIVALS, *OURS, *APPS):
        part.try_(f"import {name.removesuffix('?')}", lambda name=name: imported(name))
    part.try_("numba compiles with this numpy", numba_compiles)
    part.try_("a copy within the device", lambda: copy(part))
    part.try_("a bf16 matrix product", lambda: product(part))


def machine(part: Part) -> Figures:
    figures: Figures = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda,
        "cores": len(__import__("os").sched_getaffinity(0)),
    }
    if part.mode == "gpu":
        about = torch.cuda.get_device_properties(0)
        figures |= {
            "device": about.name,
            "compute capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory_mib": about.total_memory // 2**20,
            "driver": torch._C._cuda_getDriverVersion(),
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            # float32 convolutions round their inputs to 10 bits where this is on, and torch has it on
            "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
            "TF32 in products": torch.backends.cuda.matmul.allow_tf32,
        }
    return figures


def imported(name: str) -> Figures:
    module = name.removesuffix("?")
    began = time.perf_counter()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if name.endswith("?") and missing.name == module:
            raise NotRun("not installed") from None
        raise
    top = module.split(".")[0]
    try:
        shown = version(PIP.get(top, top.replace("_", "-")))
    except PackageNotFoundError:
        shown = str(getattr(found, "__version__", "?"))
    return {"ok": True, "version": shown, "seconds": time.perf_counter() - began}


def numba_compiles() -> Figures:
    import numba
    import numpy as np

    def double(x):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            x[i] += x[i]

    x = np.ones(3, dtype=np.float32)
    numba.njit(double)(x)
    return {"ok": bool((x == 2).all()), "numba": numba.__version__, "numpy": np.__version__}


def copy(part: Part) -> Figures:
    """The bandwidth that memory-bound figures of the record are to be read against."""
    part.needs_gpu()
    from benchmarks.gpu.timing import in_turn

    source = torch.randint(0, 256, (4 << 30,), dtype=torch.uint8, device=part.device)
    target = torch.empty_like(source)
    ms = in_turn({"copy": lambda: target.copy_(source)}, part.device, 5)["copy"]
    return {"GB/s, read and written": 2 * len(source) / ms / 1e6}


def product(part: Part) -> Figures:
    part.needs_gpu()
    from benchmarks.gpu.timing import in_turn

    a, b = (torch.randn(8192, 8192, device=part.device, dtype=torch.bfloat16) for _ in range(2))
    ms = in_turn({"product": lambda: a @ b}, part.device, 5)["product"]
    return {"TFLOP/s": 2 * 8192**3 / ms / 1e9}
