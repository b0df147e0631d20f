"""A frozen network over labelled batches: the one pass every probe starts from."""

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
    """Features of N images: x (N, D), and labels (N,) or (N, C) int64, or None."""

    x: Tensor
    labels: Tensor | None


class TapFeatures(NamedTuple):
    """Features of N images at several depths: x {tap: (N, D of the tap)}, and labels as in `Features`."""

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
    """Run model over batches of (images, labels), in order, in eval mode.

    images: (B, 3, S, S) float; labels: (B,) or, for several an image, (B, C) integers, or None. model maps images to
    (B, D); with taps, model.stages(images) gives the maps that `pool_taps` pools. It must already live on `device`
    (default: where its first tensor is), to which images are moved. precision: "32", or "bf16" autocast, whatever
    autocast surrounds the call. The rows are of `dtype` (float32, or float16 for half the space) on storage_device.

    cache: a folder (name it by `features_key`) that keeps the rows, at most 64 MiB behind; the result is then a memory
    map. An interrupted call made again goes on where it stopped; a complete one opens at once, and neither model nor
    batches is touched. To skip decoding what is done, batches may be a function of the first row wanted.

    progress is called after each batch with the number of images done. Every module's training flag is restored, also
    after an error. Raises ValueError if there is no batch, the model's output is not (B, D), labels do not fit the
    images, only some batches have labels, float16 overflows, or the cache holds other features."""
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
        raise ValueError(f"a cache is read on the cpu, got storage_device {storage_device!r}: leave one of them out")
    else:
        spec = {"taps": taps and list(taps), "pool": pool, "precision": precision, "dtype": str(dtype)}
        sink = FeatureCache(Path(cache), spec)
    if not sink.complete:
        rest = _from_row(batches, sink.n_rows)
        try:
            # closed at once after an error too: that is when the training flags come back
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
    """Features and labels of each batch."""
    stages: Any = getattr(model, "stages", None)
    if taps is not None and stages is None:
        raise ValueError("taps need a model with stages(images) -> {'feature1': map, ...}: leave taps out, or add it")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for pixels, targets in batches:
            images, labels = as_tensor(pixels), None if targets is None else as_tensor(targets)
            # entered a batch at a time: these modes must not leak into the consumer of a generator
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
                    raise ValueError(f"labels must be ({len(images)},), got {tuple(labels.shape)}")
                columns["labels"] = labels.to(torch.int64)
            yield columns
    finally:
        for module in training:
            module.training = True


def _from_row(batches: Batches | Callable[[int], Batches], first: int) -> Batches:
    """The batches from row `first` on."""
    if callable(batches):
        yield from batches(first)
        return
    for images, labels in batches:
        if first < len(images):
            yield images[first:], None if labels is None else labels[first:]
        first = max(0, first - len(images))


def _cast(x: Tensor, dtype: torch.dtype, name: str, first_row: int) -> Tensor:
    if name == "labels" or x.dtype == dtype:
        return x
    cast = x.to(dtype)
    if dtype == torch.float16 and (bad := (cast.isinf() & x.isfinite()).any(1).nonzero().flatten()).numel():
        raise ValueError(f"row {first_row + int(bad[0])} of {name} exceeds float16's 65504: use dtype=torch.float32")
    return cast


class _Memory:
    """What FeatureCache does, in memory."""

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
        # Concatenated outside inference mode, so that a linear probe may train on the result.
        return {name: torch.cat(blocks) for name, blocks in self._blocks.items()}


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))
