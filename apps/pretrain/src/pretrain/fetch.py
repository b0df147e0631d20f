"""Copy many numbers from the device to the host at once. Separate copies would wait for the GPU once each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors to the CPU with one copy and one wait. The results have no gradient and are contiguous."""
    found = [tensor.detach() for tensor in tensors]
    # the largest element size first, so that each tensor starts at a multiple of its own
    away = sorted((i for i, t in enumerate(found) if t.device.type != "cpu"), key=lambda i: -found[i].element_size())
    if not away:
        return found
    pieces = [found[i].contiguous().reshape(-1).view(torch.uint8) for i in away]
    packed = torch.cat(pieces).cpu()
    for i, piece in zip(away, packed.split([len(piece) for piece in pieces]), strict=True):
        found[i] = piece.view(found[i].dtype).view(found[i].shape)
    return found
