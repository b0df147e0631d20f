"""Random damage: any bytes give an image or a ValueError of one line, and nothing else."""

import io
import os
import tarfile
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_images import CorruptImage, open_images
from indexed_images._decode import decode
from PIL import Image

N_INPUTS = int(os.environ.get("CLUSTER_SSL_FUZZ", 60))  # per test: 9 kinds of images, 4 kinds of other files
FUZZ = settings(
    max_examples=N_INPUTS,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of broken metadata


def _encoded(kind, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(buffer, kind, **options)
    return buffer.getvalue()


def _exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


WHOLE = {
    "jpeg": _encoded("jpeg", exif=_exif()),
    "jpeg, CMYK": _encoded("jpeg", mode="CMYK"),
    "jpeg, progressive": _encoded("jpeg", progressive=True),
    "png": _encoded("png", exif=_exif()),
    "png, palette": _encoded("png", mode="P", transparency=3),
    "gif": _encoded("gif"),
    "bmp": _encoded("bmp"),
    "tiff": _encoded("tiff", compression="tiff_lzw"),
    "webp": _encoded("webp"),
}


def damaged(whole):
    """Flip bytes of `whole`, remove or double a part and cut it; half of the damage is in the first 256 bytes."""
    place = st.integers(0, min(255, len(whole) - 1)) | st.integers(0, len(whole) - 1)

    def apply(flips, removed, doubled, cut):
        data = bytearray(whole)
        for where, mask in flips:
            data[where] ^= mask
        if removed is not None:
            del data[removed[0] : sum(removed)]
        if doubled is not None:
            data[doubled[0] : doubled[0]] = data[doubled[0] : sum(doubled)]
        return bytes(data[:cut])

    span = st.none() | st.tuples(place, st.integers(1, 600))
    flips = st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=8)
    return st.builds(apply, flips, span, span, st.none() | st.integers(0, len(whole)))


@pytest.mark.parametrize("kind", WHOLE)
def test_images(monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a flipped bit can make the image huge, which takes time

    @FUZZ
    @given(damaged(WHOLE[kind]))
    def check(data):
        try:
            image = decode(data)
        except CorruptImage as error:
            said = str(error)
        else:
            said = "an image"
            assert (image.dtype, image.ndim, image.shape[0]) == (torch.uint8, 3, 3)
        assert said.isprintable()
        assert said

    check()


def use(spec):
    """Open the spec and read its images; only a ValueError or FileNotFoundError of one line may be raised."""
    said = []
    try:
        images = open_images(spec)
        for i in range(min(len(images), 4)):
            try:
                images[i]
            except CorruptImage as error:
                said.append(str(error))
    except (ValueError, FileNotFoundError) as error:
        said.append(str(error))
    assert all(line.isprintable() and len(line) < 1_000 for line in said), said


def test_lists(tmp_path):
    line = st.text("ap.n g\t1-é\0\x1b\x85\ud800", max_size=20) | st.sampled_from(
        ["a.png", "a.png 1", "../a.png x", "b.jpg\t-3", "/a.png 9" * 9, "\ufeff"]
    )
    lines = st.lists(line, max_size=6).map(lambda found: "\n".join(found).encode("utf-8", "surrogatepass"))

    @FUZZ
    @given(st.binary(max_size=300) | lines)
    def check(data):
        (tmp_path / "list.txt").write_bytes(data)
        use(f"list:{tmp_path}/list.txt")

    check()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives(tmp_path, format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in (("a/1.png", WHOLE["png"]), ("ü" * 120 + "/2.jpg", WHOLE["jpeg"]), ("a/1.cls", b"7")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    whole = buffer.getvalue()[: buffer.getvalue().rindex(b"7") + 1024]
    headers = [i for i in range(0, len(whole), 512) if whole[i + 257 : i + 262] == b"ustar"]

    def sealed(data):
        """Correct the checksums of damaged headers; otherwise reading always stops at the first one."""
        data = bytearray(data)
        for i in headers:
            if i + 512 <= len(data):
                data[i + 148 : i + 156] = b" " * 8
                data[i + 148 : i + 156] = b"%06o\0 " % sum(data[i : i + 512])
        return bytes(data)

    in_header = st.builds(lambda i, k: i + k, st.sampled_from(headers), st.integers(0, 344))
    flips = st.lists(st.tuples(in_header, st.integers(0, 255)), min_size=1, max_size=6)

    def flipped(flips):
        data = bytearray(whole)
        for where, value in flips:
            data[where] = value
        return sealed(data)

    @FUZZ
    @given(damaged(whole) | st.builds(flipped, flips))
    def check(data):
        (tmp_path / "x.tar").write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(f"tar:{tmp_path}/x.tar")
        assert os.listdir(tmp_path) == ["x.tar"]

    check()


def test_npz(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2), class_names=np.array(["a", "b"]))

    @FUZZ
    @given(damaged(buffer.getvalue()))
    def check(data):
        (tmp_path / "x.npz").write_bytes(data)
        use(f"npz:{tmp_path}/x.npz")

    check()
