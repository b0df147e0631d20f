"""Features of a frozen network, extracted in one pass over batches of images."""

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from ._arrays import Array, as_tensor
from ._feature_cache import FeatureCache
from ._pools import Pool, pool_taps

Batches = Iterable[tuple[Array, Array | None]]


class Features(NamedTuple):
    """Features of N images.

    Attributes:
        x: (N, D) float32 or float16.
        labels: (N,) or (N, C) int64, or None.
    """

    x: Tensor
    labels: Tensor | None


class TapFeatures(NamedTuple):
    """Features of N images at several depths of the network.

    Attributes:
        x: {tap: (N, D of the tap)} float32 or float16.
        labels: (N,) or (N, C) int64, or None.
    """

    x: dict[str, Tensor]
    labels: Tensor | None


@overload
def extract_features(
    model: nn.Module,
    batches: Batches | Callable[[int], Batches],
    *,
    taps: None = None,
    device: torch.device | str | None = ...,
    precision: Literal["32", "bf16"] = ...,
    dtype: torch.dtype = ...,
    storage_device: torch.device | str = ...,
    cache: str | Path | None = ...,
    progress: Callable[[int], None] | None = ...,
) -> Features: ...
@overload
def extract_features(
    model: nn.Module,
    batches: Batches | Callable[[int], Batches],
    *,
    taps: Sequence[str],
    pool: Pool = ...,
    device: torch.device | str | None = ...,
    precision: Literal["32", "bf16"] = ...,
    dtype: torch.dtype = ...,
    storage_device: torch.device | str = ...,
    cache: str | Path | None = ...,
    progress: Callable[[int], None] | None = ...,
) -> TapFeatures: ...
def extract_features(
    model: nn.Module,
    batches: Batches | Callable[[int], Batches],
    *,
    taps: Sequence[str] | None = None,
    pool: Pool = "specified",
    device: torch.device | str | None = None,
    precision: Literal["32", "bf16"] = "32",
    dtype: torch.dtype = torch.float32,
    storage_device: torch.device | str = "cpu",
    cache: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Features | TapFeatures:
    """Run a network over batches of images in eval mode, and collect its features and the labels.

    The training flag of every module is restored afterwards, also after an error.

    With `cache`, the rows are also written to a folder, and the result is a memory map of it. An interrupted call
    continues from the rows on disk (at most 64 MiB are lost); a completed one opens at once, without using the model or
    the batches.

    Args:
        model: Maps images to features (B, D). With `taps`, model.stages(images) returns the maps that `pool_taps`
            pools. It must be on `device` already.
        batches: Yields images (B, 3, S, S) float and their labels: (B,) integers, (B, C) integers for several labels
            per image, or None. Or a function of a row index that yields the batches from this row on, so that a
            continued call need not decode the images before it.
        taps: Depths to extract, see `pool_taps`; None for the output of the model.
        pool: "specified" or "adaptive", see `pool_taps`.
        device: Device to move the images to; default: that of the model's first tensor.
        precision: "32", or "bf16" for autocast. An autocast around the call has no effect.
        dtype: torch.float32, or torch.float16 for half the space.
        storage_device: Device of the result.
        cache: Folder of the cache; name it by `features_key`.
        progress: Called after each batch with the number of images done.

    Returns:
        `Features`, or `TapFeatures` with `taps`; rows in the order of the batches.

    Raises:
        ValueError: If an argument or shape is invalid, there is no batch, only some batches have labels, float16
            overflows, or the cache holds other features.

    Example:
        ```python
        key = features_key(model.state_dict(), "train, resize 256")
        train = extract_features(model, batches, taps=("feature4", "avgpool"), cache=folder / key)
        ```
    """
    if precision not in ("32", "bf16"):
        raise ValueError(f"precision must be '32' or 'bf16', got {precision!r}")
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"dtype must be torch.float32 or torch.float16, got {dtype}")
    if pool not in ("specified", "adaptive"):
        raise ValueError(f"pool must be 'specified' or 'adaptive', got {pool!r}")
    device = torch.device(device) if device is not None else _device_of(model)
    sink: FeatureCache | _Memory
    if cache is None:
        sink = _Memory(torch.device(storage_device))
    elif torch.device(storage_device).type != "cpu":
        raise ValueError(f"a cache is read on the CPU, got storage_device {storage_device!r}: leave one of the two out")
    else:
        spec = {"taps": taps and list(taps), "pool": pool, "precision": precision, "dtype": str(dtype)}
        sink = FeatureCache(Path(cache), spec)
    if not sink.complete:
        rest = _from_row(batches, sink.n_rows)
        try:
            # closing the generator restores the training flags, also after an error
            with closing(_columns(model, rest, taps, pool, device, precision)) as stream:
                for columns in stream:
                    if sink.names and ("labels" in columns) != ("labels" in sink.names):
                        raise ValueError("some batches have labels and some have None: give labels to all or to none")
                    sink.append({name: _cast(x, dtype, name, sink.n_rows) for name, x in columns.items()})
                    if progress is not None:
                        progress(sink.n_rows)
            if sink.n_rows == 0:
                raise ValueError("batches is empty: nothing to extract")
            sink.record(complete=True)
        finally:
            sink.close()
    x = sink.load()
    labels = x.pop("labels", None)
    return Features(x["features"], labels) if taps is None else TapFeatures({tap: x[tap] for tap in taps}, labels)


def _columns(
    model: nn.Module, batches: Batches, taps: Sequence[str] | None, pool: Pool, device: torch.device, precision: str
) -> Generator[dict[str, Tensor], None, None]:
    """Yield the features and labels of each batch."""
    stages: Any = getattr(model, "stages", None)
    if taps is not None and stages is None:
        raise ValueError(
            "taps need a model with stages(images) -> {'feature1': map, ...}: leave taps out, or add that method"
        )
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for pixels, targets in batches:
            images, labels = as_tensor(pixels), None if targets is None else as_tensor(targets)
            # One block per batch: a generator that yields inside it would leak these modes to its consumer.
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                images = images.to(device, non_blocking=True)
                columns = {"features": model(images)} if taps is None else pool_taps(stages(images), taps, pool)
            for x in columns.values():
                if x.ndim != 2 or len(x) != len(images):
                    raise ValueError(
                        f"model must return ({len(images)}, D) for {len(images)} images, got {tuple(x.shape)}: pool it"
                    )
            if labels is not None:
                if labels.ndim not in (1, 2) or len(labels) != len(images):
                    raise ValueError(
                        f"labels must be ({len(images)},) or ({len(images)}, C), got {tuple(labels.shape)}"
                    )
                columns["labels"] = labels.to(torch.int64)
            yield columns
    finally:
        for module in training:
            module.training = True


def _from_row(batches: Batches | Callable[[int], Batches], first: int) -> Batches:
    """Yield the batches from row `first` on."""
    if callable(batches):
        yield from batches(first)
        return
    for images, labels in batches:
        if first < len(images):
            yield images[first:], None if labels is None else labels[first:]
        first = max(0, first - len(images))


def _cast(x: Tensor, dtype: torch.dtype, name: str, first_row: int) -> Tensor:
    """Convert features to dtype; raise ValueError if float16 overflows."""
    if name == "labels" or x.dtype == dtype:
        return x
    cast = x.to(dtype)
    if dtype == torch.float16 and (bad := (cast.isinf() & x.isfinite()).any(1).nonzero().flatten()).numel():
        raise ValueError(f"row {first_row + int(bad[0])} of {name} exceeds float16's 65504: use dtype=torch.float32")
    return cast


class _Memory:
    """The interface of FeatureCache, in memory."""

    complete = False

    def __init__(self, device: torch.device) -> None:
        self.device, self.n_rows = device, 0
        self._blocks: dict[str, list[Tensor]] = {}

    @property
    def names(self) -> set[str]:
        return set(self._blocks)

    def append(self, columns: dict[str, Tensor]) -> None:
        for name, x in columns.items():
            self._blocks.setdefault(name, []).append(x.to(self.device))
        self.n_rows += len(x)

    def record(self, complete: bool) -> None:
        pass

    def close(self) -> None:
        pass

    def load(self) -> dict[str, Tensor]:
        # Concatenated outside inference mode, since autograd refuses inference tensors.
        return {name: torch.cat(blocks) for name, blocks in self._blocks.items()}


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))
