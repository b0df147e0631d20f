"""Page-locked host memory, pretended: which tensors lie in it is known by their storage, so views of them do too."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor


class _Page(bytearray):
    """Memory of one pinned tensor; lives as long as any view of it."""


_pages: dict[int, int] = {}  # first byte: how many, of every page that lives


def pin(tensor: Tensor, device: object = None) -> Tensor:
    """A copy in page-locked memory; the tensor itself if it is there."""
    if is_pinned(tensor):
        return tensor
    if tensor.numel() == 0:
        return tensor.clone()
    source = tensor.detach()
    if not source.is_contiguous(memory_format=torch.channels_last) or source.ndim != 4:
        source = source.contiguous()
    page = _Page(source.numel() * source.element_size())
    flat = torch.frombuffer(page, dtype=source.dtype)
    start = flat.data_ptr()
    _pages[start] = len(page)
    weakref.finalize(page, _pages.pop, start, None)
    return flat.as_strided(source.shape, source.stride()).copy_(source)


def is_pinned(tensor: Tensor, device: object = None) -> bool:
    """An empty tensor counts: there is nothing to wait for."""
    if tensor.numel() == 0:
        return True
    return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in _pages
