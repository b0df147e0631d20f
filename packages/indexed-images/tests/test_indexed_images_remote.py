"""`tar:` over fsspec's in-memory store: equal to local files, fetched once, and never used while incomplete."""

import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from indexed_images import IndexedImages, _remote, open_images
from PIL import Image


def shard(colours: list[tuple[int, int, int]]) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for i, colour in enumerate(colours):
            encoded = BytesIO()
            Image.new("RGB", (4, 4), colour).save(encoded, "png")
            info = tarfile.TarInfo(f"class{i % 2}/{i}.png")
            info.size = len(encoded.getvalue())
            archive.addfile(info, BytesIO(encoded.getvalue()))
    return out.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INDEXED_IMAGES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "remote"


@pytest.fixture
def bucket() -> Iterator[MemoryFileSystem]:
    store = fsspec.filesystem("memory")
    for i in range(3):
        store.pipe(f"/bucket/part-{i}.tar", shard([(i, 10 * j, 0) for j in range(4)]))
    yield store
    store.rm("/bucket", recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were fetched from the store."""
    paths: list[str] = []
    get_file = MemoryFileSystem.get_file
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda self, r, p: paths.append(r) or get_file(self, r, p))
    return paths


def first_pixels(images: IndexedImages) -> list[tuple[int, list[int]]]:
    return [(sample.label, sample.image[:, 0, 0].tolist()) for sample in images]


@pytest.mark.parametrize("pattern", ["part-*.tar", "part-{0..2}.tar"])
def test_equals_local_files(pattern: str, bucket: MemoryFileSystem, tmp_path: Path) -> None:
    for path in bucket.glob("/bucket/*"):
        (tmp_path / Path(path).name).write_bytes(bucket.cat(path))
    remote, local = open_images(f"tar:memory://bucket/{pattern}"), open_images(f"tar:{tmp_path}/{pattern}")
    assert first_pixels(remote) == first_pixels(local)
    assert remote.class_names == local.class_names
    assert remote.name(5) == "memory:///bucket/part-1.tar::class0/2.png"  # its address, not the path of the copy


def test_fetched_once_and_anew_where_it_has_changed(bucket: MemoryFileSystem, fetched: list[str]) -> None:
    open_images("tar:memory://bucket/*.tar")
    open_images("tar:memory://bucket/*.tar")
    assert sorted(fetched) == [f"/bucket/part-{i}.tar" for i in range(3)]
    bucket.pipe("/bucket/part-1.tar", shard([(200, 0, 0)] * 4))  # the same number of bytes
    changed = open_images("tar:memory://bucket/*.tar")
    assert fetched[3:] == ["/bucket/part-1.tar"]
    assert changed[4].image[0, 0, 0] == 200


@pytest.mark.parametrize("fault", ["raises", "short"])
def test_a_half_copy_is_never_taken(
    fault: str, bucket: MemoryFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: MemoryFileSystem, remote: str, local: str) -> None:
        Path(local).write_bytes(bucket.cat(remote)[:1000])
        if fault == "raises":
            raise ConnectionResetError("connection reset\nby peer")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", broken)
        with pytest.raises(OSError, match=r"cannot fetch memory:///bucket/part-0.tar: ") as error:
            open_images("tar:memory://bucket/part-0.tar")
    assert "\n" not in str(error.value)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert len(open_images("tar:memory://bucket/part-0.tar")) == 4


def test_what_a_killed_process_left_behind_is_written_over(bucket: MemoryFileSystem, cache: Path) -> None:
    open_images("tar:memory://bucket/part-0.tar")
    (copy,) = cache.glob("*.tar")
    copy.unlink()
    copy.with_suffix(".tar.part").write_bytes(b"half")
    assert len(open_images("tar:memory://bucket/part-0.tar")) == 4
    assert not list(cache.glob("*.part"))


def test_several_at_once_fetch_once(bucket: MemoryFileSystem, fetched: list[str]) -> None:
    threads = [threading.Thread(target=open_images, args=("tar:memory://bucket/*.tar",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 3


def test_a_full_disk_is_found_before_anything_is_fetched(
    bucket: MemoryFileSystem, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_remote.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(OSError, match=r"GB free: name a larger disk in INDEXED_IMAGES_CACHE"):
        open_images("tar:memory://bucket/*.tar")
    assert not fetched


def test_addresses_that_lead_nowhere(bucket: MemoryFileSystem) -> None:
    for pattern in ("memory://bucket/none.tar", "memory://bucket/none-*.tar", "memory://bucket/part-{7..8}.tar"):
        with pytest.raises(FileNotFoundError, match="no tar file 'memory://bucket"):
            open_images(f"tar:{pattern}")
    with pytest.raises(ValueError, match=r"cannot open 'nowhere://x.tar': Protocol not known: nowhere"):
        open_images("tar:nowhere://x.tar")


def test_an_archive_that_is_damaged_is_named_by_its_address(bucket: MemoryFileSystem) -> None:
    bucket.pipe("/bucket/part-0.tar", b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match=r"memory:///bucket/part-0.tar is compressed \(gzip\)"):
        open_images("tar:memory://bucket/part-0.tar")


def test_local_archives_do_not_import_fsspec() -> None:
    code = "import sys; sys.modules['fsspec'] = None; import indexed_images._remote, indexed_images._tar"
    subprocess.run([sys.executable, "-c", code], check=True)
