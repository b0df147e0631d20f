"""The stub of libcuda, and the environment of a process that pretends. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "stub.c"


def unavailable() -> str | None:
    """Why CUDA cannot be pretended on this machine; None where it can."""
    if sys.platform != "linux":
        return "pretended CUDA needs Linux: a stub of libcuda is preloaded"
    if shutil.which("cc") is None:
        return "pretended CUDA needs a C compiler named cc, for a stub of libcuda"
    torch = find_spec("torch")
    if torch is None or torch.origin is None or not (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").exists():
        return "pretended CUDA needs a torch that was built with CUDA (this one is for CPUs only)"
    if find_spec("triton") is None:
        return "pretended CUDA needs triton, whose interpreter runs the kernels"
    return None


def environment() -> dict[str, str]:
    """The variables of this process, and those that make a new Python process able to pretend."""
    library = stub()
    python_path = [str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    library_path = [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return variables | {
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": ":".join(filter(None, library_path)),
        "PYTHONPATH": ":".join(filter(None, python_path)),
        "TRITON_INTERPRET": "1",  # read when a kernel is defined
        "OMP_NUM_THREADS": "1",
        # many short processes import torch: where nothing is written beside the sources, that took most of their time
        "PYTHONPYCACHEPREFIX": str(library.parent / "pycache"),
    }


def stub() -> Path:
    """libcuda.so.1, compiled once for each version of its source."""
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"pretend_cuda-{os.getuid()}-{version}"
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        unfinished = folder / f"{os.getpid()}.so"  # renamed when whole: other test processes compile it too
        command = ["cc", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(unfinished), str(SOURCE)]
        subprocess.run(command, check=True)
        unfinished.replace(library)
    return library
