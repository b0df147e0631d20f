"""Moves many small tensors to another device in one copy."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes: as much as a GPU loads at once


def moved(tensors: Sequence[Tensor], device: torch.device | str, non_blocking: bool = False) -> list[Tensor]:
    """Return contiguous copies of the tensors on `device`; tensors that are there already are returned as they are.

    Tensors on the CPU cross in one uint8 buffer, and the results are views of it, each aligned to 16 bytes. With
    non_blocking=True and a GPU, the buffer is pinned first and the copy is not awaited. Tensors on another device cross
    one by one. Copies to the CPU are always awaited, because the host would otherwise read them too early.
    """
    device = torch.device(device)
    non_blocking = non_blocking and device.type != "cpu"
    crossing = [t for t in tensors if t.device.type == "cpu" and device.type != "cpu"]
    if not crossing:
        return [t.to(device, non_blocking=non_blocking) for t in tensors]
    starts, n_bytes = _starts(crossing)
    buffer = _filled(crossing, starts, n_bytes)
    if device.type == "cuda" and non_blocking and n_bytes:
        # torch's pool of pinned memory reuses a buffer only after the copies from it are done
        with torch.cuda.device(device):
            buffer = buffer.pin_memory()
    there = iter(_views(buffer.to(device, non_blocking=non_blocking), crossing, starts))
    return [next(there) if t.device.type == "cpu" else t.to(device, non_blocking=non_blocking) for t in tensors]


def _starts(tensors: Sequence[Tensor]) -> tuple[list[int], int]:
    """Return the first byte of each tensor in the buffer, and the size of the buffer in bytes."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    return starts, end


def _filled(tensors: Sequence[Tensor], starts: Sequence[int], n_bytes: int) -> Tensor:
    """Return the filled buffer. NumPy copies it, because its small copies start faster than torch's."""
    buffer = torch.empty(n_bytes, dtype=torch.uint8)
    memory = buffer.numpy()
    for tensor, start in zip(tensors, starts, strict=True):
        array = tensor.numpy()
        memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
    return buffer


def _views(buffer: Tensor, like: Sequence[Tensor], starts: Sequence[int]) -> list[Tensor]:
    typed = {dtype: buffer.view(dtype) for dtype in {t.dtype for t in like}}
    return [
        typed[t.dtype].as_strided(t.shape, _contiguous(t.shape), start // t.element_size())
        for t, start in zip(like, starts, strict=True)
    ]


def _contiguous(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]
