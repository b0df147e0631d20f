"""Which device a run computes on."""

from __future__ import annotations

import torch

from steady_runs.errors import BadInput


def use_cuda(device: str) -> bool:
    """Whether `--device` (auto, cpu or cuda) means a GPU on this machine.

    Raises:
        BadInput: For `cuda` where torch finds no GPU.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise BadInput("--device cuda: no GPU that torch can use; take --device auto, or install a torch with CUDA")
    return available and device != "cpu"
