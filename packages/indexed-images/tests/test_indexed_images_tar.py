import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from indexed_images import CorruptImage, NoSuchSplit, open_images
from indexed_images._tar import expand_ranges
from PIL import Image


def _png(value):
    buffer = io.BytesIO()
    Image.new("L", (5, 4), value).save(buffer, "png")
    return buffer.getvalue()


def _write(path, members, **kwargs):
    """members: name to pixel value (an image) or bytes."""
    with tarfile.open(path, "w", **kwargs) as archive:
        for name, content in members.items():
            data = _png(content) if isinstance(content, int) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _values(images):
    return [int(image[0, 0, 0]) for image, _, _ in images]


def test_folders_are_classes_in_sorted_order(tmp_path):
    _write(tmp_path / "x.tar", {"./b/2.png": 1, "a/deep/9.png": 2, "b/1.png": 3, "notes.txt": b"hi", "b/._1.png": b""})
    images = open_images(f"tar:{tmp_path}/x.tar")
    assert _values(images) == [2, 3, 1]
    assert images.class_names == ["a", "b"]
    assert images.labels.tolist() == [0, 1, 1]
    assert images.bytes(1) == _png(3)


def test_a_folder_that_holds_everything_is_no_class(tmp_path):
    _write(tmp_path / "x.tar", {"photos/b/2.png": 1, "photos/a/1.png": 2})
    assert open_images(f"tar:{tmp_path}/x.tar").class_names == ["a", "b"]
    _write(tmp_path / "y.tar", {"photos/2.png": 1, "photos/1.png": 2})
    assert open_images(f"tar:{tmp_path}/y.tar").labels is None


def test_splits(tmp_path):
    _write(tmp_path / "x.tar", {"top/train/a/1.png": 1, "top/train/b/1.png": 2, "top/val/b/1.png": 3, "top/r.png": 4})
    images = open_images(f"tar:{tmp_path}/x.tar")
    assert (_values(images), images.labels.tolist()) == ([1, 2], [0, 1])
    for split in ("val", "test"):
        images = open_images(f"tar:{tmp_path}/x.tar", split)
        assert (_values(images), images.labels.tolist(), images.class_names) == ([3], [1], ["a", "b"])
    _write(tmp_path / "y.tar", {"a/1.png": 1})
    with pytest.raises(NoSuchSplit, match="only 'train'"):
        open_images(f"tar:{tmp_path}/y.tar", "val")


def test_webdataset_shards(tmp_path):
    for shard in range(3):
        members = {}
        for k in range(2):
            members[f"{shard}{k}.seg.png"] = 10 * shard + k
            members[f"{shard}{k}.cls"] = str(5 - shard).encode()
            members[f"{shard}{k}.json"] = b"{}"
        _write(tmp_path / f"s-{shard:03}.tar", members)
    images = open_images(f"tar:{tmp_path}/s-{{000..002}}.tar")
    assert _values(images) == [0, 1, 10, 11, 20, 21]
    assert images.labels.tolist() == [5, 5, 4, 4, 3, 3]
    assert images.class_names is None
    assert _values(open_images(f"tar:{tmp_path}/s-*.tar")) == [0, 1, 10, 11, 20, 21]
    assert _values(open_images(f"tar:{tmp_path}/s-{{001..001}}.tar")) == [10, 11]
    with pytest.raises(FileNotFoundError, match=r"s-003\.tar"):
        open_images(f"tar:{tmp_path}/s-{{002..003}}.tar")


def test_webdataset_names(tmp_path):
    _write(tmp_path / "x.tar", {"0.png": 1, "0.cls": b"dog\n", "1.png": 2, "1.cls": b"cat"})
    images = open_images(f"tar:{tmp_path}/x.tar")
    assert (images.class_names, images.labels.tolist()) == (["cat", "dog"], [1, 0])


def test_ranges():
    assert expand_ranges("a{8..10}.tar") == ["a8.tar", "a9.tar", "a10.tar"]
    assert expand_ranges("{0..1}-{08..09}") == ["0-08", "0-09", "1-08", "1-09"]
    assert expand_ranges("plain") == ["plain"]
    with pytest.raises(ValueError, match="empty"):
        expand_ranges("{3..2}")


def test_nothing_is_ever_extracted(tmp_path, monkeypatch):
    inside = tmp_path / "cwd"
    inside.mkdir()
    monkeypatch.chdir(inside)
    _write(tmp_path / "x.tar", {"../../evil.png": 1, "/tmp-evil/abs.png": 2, "a/../b.png": 3})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.warns(UserWarning, match=r"1 members are links, devices or sparse .*'link\.png'"):
        images = open_images(f"tar:{tmp_path}/x.tar")
    assert sorted(_values(images)) == [1, 2, 3]
    assert sorted(os.listdir(tmp_path)) == ["cwd", "x.tar"]
    assert os.listdir(inside) == []
    assert not Path("/tmp-evil").exists()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_unicode_names(tmp_path, format):
    folder = "x" * 90 if format == tarfile.USTAR_FORMAT else "ü" * 150
    _write(tmp_path / "x y.tar", {f"{folder}/image one.png": 1, "b/two.png": 2}, format=format)
    images = open_images(f"tar:{tmp_path}/x y.tar")
    assert images.class_names == ["b", folder]
    assert _values(images) == [2, 1]


def test_compressed_and_broken_archives_are_refused(tmp_path):
    plain = _write(tmp_path / "x.tar", {"a/1.png": 1, "b/2.png": 2}).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=r"compressed \(gzip\)"):
        open_images(f"tar:{tmp_path}/x.tar.gz")
    (tmp_path / "cut.tar").write_bytes(plain[: 512 + 512 + 512 + 20])
    with pytest.raises(ValueError, match=r"cut\.tar is"):
        open_images(f"tar:{tmp_path}/cut.tar")
    (tmp_path / "not.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="not a whole tar file"):
        open_images(f"tar:{tmp_path}/not.tar")
    _write(tmp_path / "empty.tar", {"readme.txt": b""})
    with pytest.raises(ValueError, match="known extensions"):
        open_images(f"tar:{tmp_path}/empty.tar")


def test_damaged_member_and_vanished_archive(tmp_path):
    _write(tmp_path / "x.tar", {"0.png": 1, "1.png": b"broken"})
    images = open_images(f"tar:{tmp_path}/x.tar")
    with pytest.raises(CorruptImage, match=r"x\.tar::1\.png \(index 1\): not an image"):
        images[1]
    copy = pickle.loads(pickle.dumps(images))
    os.remove(tmp_path / "x.tar")
    with pytest.raises(CorruptImage, match="No such file"):
        copy[0]


def test_real_photographs():
    root = Path(__file__).parents[3]
    file = (
        Path(os.environ.get("CLUSTER_SSL_DATA", root.parent / "shared" / "data")) / "imagenet_small/imagenette160.tar"
    )
    if not file.is_file():
        pytest.skip("shared/data is not here")
    train, val = open_images(f"tar:{file}"), open_images(f"tar:{file}", "val")
    assert (len(train), len(val)) == (4000, 1000)
    assert train.class_names == val.class_names
    assert len(train.class_names) == 10
    assert train.labels.bincount().tolist() == [400] * 10
    assert train[3999].image.shape == (3, 160, 160)
