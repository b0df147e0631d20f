"""Damaged and hostile files are refused in one line, without running, writing or allocating anything for them."""

import io
import os
import pickle
import struct
import sys
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from indexed_images import CorruptImage, open_images
from indexed_images._decode import decode
from PIL import Image, ImageFile
from torch.utils.data import DataLoader


def _encoded(kind="png", size=(24, 24), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


# One file of each kind; the first test cuts them at every length, N_CUTS files in all.
WHOLE = {
    "jpeg": _encoded("jpeg"),
    "jpeg, progressive": _encoded("jpeg", progressive=True),
    "png": _encoded("png"),
    "gif": _encoded("gif"),
    "bmp": _encoded("bmp"),
    "tiff": _encoded("tiff"),
    "tiff, LZW": _encoded("tiff", compression="tiff_lzw"),
    "webp": _encoded("webp"),
    "webp, lossless": _encoded("webp", lossless=True),
    "ppm": _encoded("ppm"),
}
N_CUTS = sum(map(len, WHOLE.values()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_is_corrupt_or_whole_and_never_half_grey(kind):
    data = WHOLE[kind]
    whole = decode(data)
    n_whole = 0
    for length in range(len(data)):
        try:
            image = decode(data[:length])
        except CorruptImage:
            continue
        assert torch.equal(image, whole), length  # only bytes after the pixels may be missing
        n_whole += 1
    assert n_whole <= 20


@pytest.mark.parametrize(
    "data", [b"", bytes(10_000), b"Hello, this is text.\n" * 50, b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF"]
)
def test_text_and_zeros_named_jpg(tmp_path, data):
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(CorruptImage, match=r"x\.jpg \(index 0\): not an image"):
        open_images(f"folder:{tmp_path}")[0]


@pytest.mark.parametrize("kind", ["png", "webp", "gif", "bmp", "tiff"])
def test_the_content_decides_not_the_name(tmp_path, kind):
    (tmp_path / "x.jpg").write_bytes(_encoded(kind))
    assert open_images(f"folder:{tmp_path}")[0].image.shape == (3, 24, 24)


def test_no_program_is_started_for_postscript(tmp_path, monkeypatch):
    """Pillow passes EPS to Ghostscript, which would run code from an image file."""
    Image.init()
    image = Image.new("RGB", (8, 8))
    buffer = io.BytesIO()
    image.save(buffer, "EPS")
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(CorruptImage, match="not an image"):
        decode(buffer.getvalue())


def test_two_pictures_in_one_jpeg():
    """MPO, which some cameras write, is a JPEG followed by a second one."""
    buffer = io.BytesIO()
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert decode(buffer.getvalue())[:, 4, 4].tolist() == [254, 0, 0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(60_000, 60_000), (1, 2**31 - 1), (10_000, 9_000)])
def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch, size):
    data = _png_bomb(*size)
    assert len(data) < 100
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("memory was taken"))
    with pytest.raises(CorruptImage, match=r"decompression bomb.*limit.*max_pixels") as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(10**12)  # sparse: takes no space on disk
    with pytest.raises(CorruptImage, match=r"1,000,000,000,000 bytes, limit 715,827,880: .*max_pixels"):
        open_images(f"folder:{tmp_path}")[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "x.jpg").write_bytes(bytes(801))
    with pytest.raises(CorruptImage, match="801 bytes, limit 800"):
        open_images(f"folder:{tmp_path}").bytes(0)


def _oriented():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise
    return _encoded("jpeg", size=(16, 8), exif=exif)


def test_exif_turns_photographs_but_not_benchmark_sets(tmp_path):
    """Published figures of benchmark sets are of images as stored, because torchvision's loaders ignore EXIF."""
    for k in range(1000):
        folder = tmp_path / "train" / f"n{k:08}"
        folder.mkdir(parents=True)
        if k == 0:
            (folder / "x.JPEG").write_bytes(_oriented())
    # what torchvision.datasets.folder.pil_loader does
    stored = np.array(Image.open(tmp_path / "train/n00000000/x.JPEG").convert("RGB")).transpose(2, 0, 1)
    assert stored.shape == (3, 8, 16)
    imagenet, folder = f"imagenet:{tmp_path}", f"folder:{tmp_path}"
    (tmp_path / "list.txt").write_text("train/n00000000/x.JPEG")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "train/n00000000/x.JPEG", "x.jpg")
    assert np.array_equal(open_images(imagenet)[0].image, stored)
    turned = np.rot90(stored, -1, (1, 2))
    for spec in (folder, f"list:{tmp_path}/list.txt", f"tar:{tmp_path}/x.tar"):
        assert np.array_equal(open_images(spec)[0].image, turned)
        assert np.array_equal(open_images(spec, upright=False)[0].image, stored)
    assert np.array_equal(open_images(imagenet, upright=True)[0].image, turned)


def _spoil(paths):
    """Damage four files, each in another way."""
    paths[0].write_bytes(b"")
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    paths[2].unlink()
    paths[3].write_bytes(_png_bomb(60_000, 60_000))


def _folder(root, n):
    for k in range(n):
        (root / f"{k:03}.png").write_bytes(_encoded("png", size=(4, 4)))
    return sorted(root.glob("*.png"))


def test_one_percent_of_bad_files_passes_and_more_is_named(tmp_path):
    paths = _folder(tmp_path, 400)
    images = open_images(f"folder:{tmp_path}", on_corrupt="replace")
    _spoil(paths[100:])  # after they were listed
    batches = list(DataLoader(images, batch_size=50, num_workers=2))
    assert torch.cat([b.index for b in batches]).tolist() == list(range(400))
    assert [(s.index, s.path) for s in images.skipped] == [(i, str(paths[i])) for i in range(100, 104)]
    reasons = " | ".join(s.reason for s in images.skipped)
    for reason in ("not an image", "truncated", "No such file", "decompression bomb"):
        assert reason in reasons
    paths[300].unlink()
    with pytest.raises(CorruptImage, match="5 of 400 images are corrupt, at most 4 may be replaced: ") as caught:
        images[300]
    assert all(str(path) in str(caught.value) for path in paths[100:103])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes and devices of Linux")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    paths = _folder(tmp_path, 5)
    images = open_images(f"folder:{tmp_path}")
    for path in paths[1:]:
        path.unlink()
    os.mkfifo(paths[1])
    paths[2].mkdir()
    paths[3].symlink_to("/dev/zero")
    paths[4].symlink_to(paths[4])
    for i in (1, 2, 3):
        with pytest.raises(CorruptImage, match="not a regular file"):
            images[i]
    with pytest.raises(CorruptImage, match="symbolic links"):
        images[4]
    # a new listing finds them, too
    images = open_images(f"folder:{tmp_path}")
    assert [images.name(i) for i in range(len(images))] == [str(paths[i]) for i in (0, 1, 3, 4)]


def test_a_file_that_changes_is_read_as_it_is(tmp_path):
    path = _folder(tmp_path, 2)[0]
    images = open_images(f"folder:{tmp_path}")
    path.write_bytes(_encoded("jpeg", size=(40, 30)))
    assert images[0].image.shape == (3, 30, 40)


@pytest.mark.skipif(sys.platform != "linux", reason="such names exist on Linux")
def test_names_are_shown_in_one_line(tmp_path):
    for name in ("new\nline.jpg", "\x1b[2Jclear.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    images = open_images(f"folder:{tmp_path}")
    for i in range(3):
        with pytest.raises(CorruptImage) as caught:
            images[i]
        assert str(caught.value).isprintable()


def _tar(path, *members):
    """members: (name, type, data or link target, other fields of the header)."""
    with path.open("wb") as file:
        for name, kind, content, fields in members:
            info = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            info.type, info.size = kind, len(data)
            info.linkname = content if isinstance(content, str) else ""
            for key, value in fields.items():
                setattr(info, key, value)
            file.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    return f"tar:{path}"


PNG = _encoded("png", size=(4, 4))


def test_hostile_members_of_a_tar_are_read_in_place_or_skipped(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for name in ("extract", "extractall", "makefile", "makelink", "makedev", "makefifo", "makedir"):
        monkeypatch.setattr(tarfile.TarFile, name, lambda *a, **k: pytest.fail("something was extracted"))
    absolute = str(tmp_path / "absolute.png")
    spec = _tar(
        tmp_path / "x.tar",
        ("good.png", tarfile.REGTYPE, PNG, {}),
        ("../../up.png", tarfile.REGTYPE, PNG, {}),
        (absolute, tarfile.REGTYPE, PNG, {}),
        ("soft.png", tarfile.SYMTYPE, "/etc/passwd", {}),
        ("hard.png", tarfile.LNKTYPE, "good.png", {}),
        ("label.cls", tarfile.SYMTYPE, "/etc/passwd", {}),
        ("char.png", tarfile.CHRTYPE, "", {"devmajor": 1, "devminor": 5}),
        ("block.png", tarfile.BLKTYPE, "", {}),
        ("fifo.png", tarfile.FIFOTYPE, "", {}),
    )
    with pytest.warns(UserWarning, match=r"6 members are links, devices or sparse .* the first is 'soft\.png'"):
        images = open_images(spec)
    assert sorted(images.name(i).partition("::")[2] for i in range(len(images))) == [
        "good.png",
        absolute.lstrip("/"),
        "up.png",
    ]
    assert all(image.shape == (3, 4, 4) for image, _, _ in images)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "x.tar"]


def test_sizes_that_a_tar_claims(tmp_path):
    for size in (10**6, 8 * 2**30 - 1, 10**15):
        spec = _tar(
            tmp_path / "x.tar", ("good.png", tarfile.REGTYPE, PNG, {}), ("x.png", tarfile.REGTYPE, b"", {"size": size})
        )
        with pytest.raises(ValueError, match=r"x\.tar is not a whole tar file"):
            open_images(spec)
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE):
        spec = _tar(tmp_path / "y.tar", ("x.png", kind, b"", {"size": 10**15}), ("good.png", tarfile.REGTYPE, PNG, {}))
        with pytest.raises(ValueError, match=r"y\.tar is not a whole tar file"):
            open_images(spec)
    spec = _tar(tmp_path / "m.tar", ("x.png", tarfile.XHDTYPE, b"", {"size": 3 * 10**9}))
    tracemalloc.start()
    with pytest.raises(ValueError, match="not a whole tar file"):
        open_images(spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**8
    for size in (-512, -1024):  # a negative size leads back to the same header
        spec = _tar(tmp_path / "z.tar", ("x.png", tarfile.REGTYPE, b"", {"size": size}))
        with pytest.raises(ValueError, match=r"z\.tar is not a whole tar file: .*below zero"):
            open_images(spec)
    spec = _tar(tmp_path / "l.tar", ("x.png", tarfile.REGTYPE, PNG, {}), ("x.cls", tarfile.REGTYPE, bytes(2 << 20), {}))
    with pytest.raises(ValueError, match=r"'x\.cls' has 2,097,152 bytes, expected a label"):
        open_images(spec)


def test_an_archive_that_is_cut_after_it_was_opened(tmp_path):
    images = open_images(_tar(tmp_path / "x.tar", *((f"{k}.png", tarfile.REGTYPE, PNG, {}) for k in range(3))))
    os.truncate(tmp_path / "x.tar", 1024 + 512 + 10)
    assert images[0].image.shape == (3, 4, 4)
    with pytest.raises(
        CorruptImage, match=rf"x\.tar::1\.png \(index 1\): only 10 of {len(PNG)} bytes: the archive was cut"
    ):
        images[1]
    with pytest.raises(CorruptImage, match="only 0 of"):
        images.bytes(2)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("key", ["images", "labels", "class_names"])
def test_an_npz_is_never_unpickled(tmp_path, key):
    arrays = {"images": np.zeros((1, 4, 4), np.uint8), "labels": np.zeros(1, int), "class_names": np.array(["a"])}
    evil = np.array([Canary(str(tmp_path / "canary"))], dtype=object)
    np.savez(tmp_path / "x.npz", **(arrays | {key: evil}))
    with pytest.raises(
        ValueError, match=f"{key}.npy holds Python objects; reading them needs unpickling, which is never"
    ) as caught:
        open_images(f"npz:{tmp_path}/x.npz")
    assert "\n" not in str(caught.value)
    (tmp_path / "x.npz").write_bytes(pickle.dumps(Canary(str(tmp_path / "canary"))))
    with pytest.raises(ValueError, match="not an npz file"):
        open_images(f"npz:{tmp_path}/x.npz")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("shape", [(10**12, 4, 4), (10**18, 10**18), (4, 4, 5), (-1, 4), (0,)])
def test_sizes_that_an_npz_claims(tmp_path, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match=r"images\.npy claims uint8 \(.*\) but holds 64 bytes"):
        open_images(f"npz:{tmp_path}/x.npz")


def _list(tmp_path, data):
    (tmp_path / "list.txt").write_bytes(data)
    return f"list:{tmp_path}/list.txt"


def test_lists_of_any_making(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    for data in (
        b"a.png 1\nb.png 2",
        b"a.png 1\r\nb.png 2\r\n",
        b"a.png 1\rb.png 2\r",
        b"\xef\xbb\xbfa.png 1\n\n\n b.png\t2 \n",
    ):
        images = open_images(_list(tmp_path, data))
        assert images.labels.tolist() == [1, 2]
        assert all(image.shape == (3, 4, 4) for image, _, _ in images)
    images = open_images(_list(tmp_path, b"a.png 1\nb.png one\n"))
    assert images.class_names == ["1", "one"]
    with pytest.raises(ValueError, match="line 1: expected") as caught:
        open_images(_list(tmp_path, b"x" * 5_000_000 + b"\n"))
    assert len(str(caught.value)) < 600
    for data in (b"x" * 100_000 + b".png 0\n", b".png 1 " * 30_000 + b"\n", b"a.png 1\nnul\0.png 2\n"):
        with pytest.raises(ValueError, match=r"line \d: .* is no path of an image") as caught:
            open_images(_list(tmp_path, data))
        assert len(str(caught.value)) < 600


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_lists_hold_bytes_and_lead_where_they_say(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "out.png").write_bytes(PNG)
    (inside / os.fsdecode(b"\xe9t\xe9.png")).write_bytes(PNG)  # Latin-1
    images = open_images(_list(inside, f"../out.png caf\n{tmp_path}/out.png caf\n".encode() + b"\xe9t\xe9.png caf\xe9"))
    assert all(image.shape == (3, 4, 4) for image, _, _ in images)
    assert images.class_names == ["caf", "caf\\xe9"]
    with pytest.raises(ValueError, match="line 1: expected"):
        open_images(_list(inside, "a.png 1\n".encode("utf-16")))
