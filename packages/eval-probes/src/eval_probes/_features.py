"""A frozen network over labelled batches: the one pass every probe starts from."""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """Features of N images: x (N, D) float32, and labels (N,) int64 or None."""

    x: Tensor
    labels: Tensor | None


def extract_features(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    device: torch.device | str | None = None,
    precision: Literal["32", "bf16"] = "32",
    storage_device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Features:
    """Run model over batches of (images (B, 3, S, S) float, labels (B,) integers or None), in order, in eval mode.

    model maps images to (B, D); it must already live on `device` (default: where its first tensor is), to which images
    are moved. precision: "32", or "bf16" autocast, whatever autocast surrounds the call. The rows are float32 on
    storage_device. progress is called after each batch with the number of images done. Every module's training flag is
    restored, also after an error. Raises ValueError if there is no batch, the model's output is not (B, D), labels do
    not fit the images, or only some batches have labels."""
    if precision not in ("32", "bf16"):
        raise ValueError(f"precision must be '32' or 'bf16', got {precision!r}")
    device = torch.device(device) if device is not None else _device_of(model)
    training = [module for module in model.modules() if module.training]
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    n_done = 0
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for images, batch_labels in batches:
                x = model(images.to(device, non_blocking=True))
                if x.ndim != 2 or len(x) != len(images):
                    raise ValueError(
                        f"model must return ({len(images)}, D) for {len(images)} images, got {tuple(x.shape)}: pool it"
                    )
                rows.append(x.to(storage_device, torch.float32))
                if batch_labels is not None:
                    if batch_labels.shape != (len(images),):
                        raise ValueError(f"labels must be ({len(images)},), got {tuple(batch_labels.shape)}")
                    labels.append(batch_labels.to(storage_device, torch.int64))
                if len(labels) not in (0, len(rows)):
                    raise ValueError("some batches have labels and some have None: give labels to all or to none")
                n_done += len(images)
                if progress is not None:
                    progress(n_done)
    finally:
        for module in training:
            module.training = True
    if not rows:
        raise ValueError("batches is empty: nothing to extract")
    # Concatenated outside inference mode, so that a linear probe may train on the result.
    return Features(torch.cat(rows), torch.cat(labels) if labels else None)


def _device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
