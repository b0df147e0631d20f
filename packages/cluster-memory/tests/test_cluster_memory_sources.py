"""The same rows give the same clusters from every kind of source."""

import mmap
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cluster_memory import KMeans, PCAWhitening, _kmeans
from cluster_memory._sources import Source


def rows(n: int = 300, dim: int = 6) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0)).half()


class OnDisk:
    """Like a data set of h5py or zarr: a shape, a dtype, and slices only."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x, self.shape, self.dtype = x.numpy(), tuple(x.shape), x.numpy().dtype

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, part: slice) -> np.ndarray:
        assert isinstance(part, slice)
        return self._x[part]


class Foreign:
    """An array of another library, which offers DLPack."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def __dlpack__(self, **options: object) -> object:
        return self._x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._x.__dlpack_device__()


def uneven(x: torch.Tensor) -> Iterator[torch.Tensor | np.ndarray]:
    yield x[:0]
    yield x[:7]
    yield x[7:200].numpy()
    yield x[200:]


@pytest.mark.parametrize("init", ["random", "k-means++"])
@pytest.mark.parametrize("kind", ["array", "on disk", "dlpack", "blocks", "map"])
def test_same_clusters_from_every_source(kind: str, init: str, monkeypatch: pytest.MonkeyPatch, tmp_path: str) -> None:
    x = rows()
    expected = KMeans(20, init=init, n_iters=5).fit(x)
    monkeypatch.setattr(_kmeans, "_BLOCK_BYTES", 20_000)  # some forty blocks, the last one short
    source: object
    if kind == "map":
        source = np.memmap(f"{tmp_path}/x", dtype=np.float16, mode="w+", shape=(300, 6))
        source[:] = x.numpy()
    else:
        ready = {"array": x.numpy(), "on disk": OnDisk(x), "dlpack": Foreign(x), "blocks": lambda: uneven(x)}
        source = ready[kind]
    kmeans = KMeans(20, init=init, n_iters=5)
    result = kmeans.fit(source)  # type: ignore[arg-type]
    assert torch.equal(result.assignments_, expected.assignments_)
    torch.testing.assert_close(result.centroids_, expected.centroids_)
    assert torch.equal(kmeans.predict(source), expected.assignments_)  # type: ignore[arg-type]
    distances = kmeans.transform(source)  # type: ignore[arg-type]
    torch.testing.assert_close(
        distances.square(), torch.cdist(x.float(), result.centroids_).square(), atol=1e-5, rtol=1e-4
    )
    whitened = PCAWhitening(4).fit(source).transform(source)  # type: ignore[arg-type]
    torch.testing.assert_close(whitened, PCAWhitening(4).fit(x).transform(x), atol=1e-4, rtol=1e-4)


def test_bad_rows_of_blocks_are_named_by_global_number() -> None:
    x = rows()
    x[205, 3] = torch.inf
    with pytest.raises(ValueError, match=r"\[205\]"):
        KMeans(5).fit(lambda: uneven(x))


def test_what_cannot_be_read_is_refused_in_one_line() -> None:
    x = rows()
    with pytest.raises(TypeError, match="pass the function that makes it"):
        KMeans(5).fit(uneven(x))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got list"):
        KMeans(5).fit(x.tolist())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="floats"):
        KMeans(5).fit(lambda: [x.long()])
    with pytest.raises(TypeError, match="floats"):
        KMeans(5).fit(OnDisk(x.long()))
    with pytest.raises(ValueError, match="one length"):
        KMeans(5).fit(lambda: [x, x[:, :3]])
    with pytest.raises(ValueError, match="no block"):
        KMeans(5).fit(list)
    with pytest.raises(ValueError, match=r"\(n, D\)"):
        KMeans(5).fit(lambda: [x[:, :0]])


def test_blocks_that_change_between_passes_are_noticed() -> None:
    x, passes = rows(), []

    def shrinking() -> Iterator[torch.Tensor]:
        passes.append(None)
        yield x[: 300 - 10 * (len(passes) > 1)]

    with pytest.raises(ValueError, match="the same 300 rows"):
        KMeans(5).fit(shrinking)
    passes.clear()
    with pytest.raises(ValueError, match="the same 150 rows"):
        KMeans(5).fit(lambda: passes.append(None) or [x[: 150 * len(passes)]])


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system has no madvise")
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_pages_of_a_map_are_given_back_and_nothing_is_lost(mode: str, tmp_path: str) -> None:
    x = np.arange(4096 * 64, dtype=np.float32).reshape(4096, 64)
    x.tofile(f"{tmp_path}/x")
    mapped = np.memmap(f"{tmp_path}/x", dtype=np.float32, mode=mode, shape=x.shape)  # type: ignore[call-overload]
    if mode != "r":
        mapped[5] = x[5] = -1  # in "c" only this process sees it
    source = Source(mapped)
    for _ in range(2):
        assert all((block.numpy() == x[part]).all() for part, block in source.blocks(100))
