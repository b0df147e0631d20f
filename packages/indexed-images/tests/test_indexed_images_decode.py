import io
import struct

import numpy as np
import pytest
import torch
from indexed_images import CorruptImage
from indexed_images._decode import decode
from PIL import Image


def _encoded(image: Image.Image, kind: str = "png", **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def _noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def test_rgb_is_exact_and_contiguous():
    pixels = _noise(5, 7, 3)
    image = decode(_encoded(Image.fromarray(pixels)))
    assert image.shape == (3, 5, 7)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "tiff", "webp", "ppm"])
def test_lossless_formats(kind):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[2:5, 3:] = (255, 0, 0)
    options = {"lossless": True} if kind == "webp" else {}
    assert np.array_equal(decode(_encoded(Image.fromarray(pixels), kind, **options)).permute(1, 2, 0), pixels)


def test_grey_is_repeated():
    pixels = _noise(4, 6)
    assert np.array_equal(decode(_encoded(Image.fromarray(pixels))), np.stack([pixels] * 3))


def test_one_bit():
    pixels = _noise(9, 9) > 127
    assert np.array_equal(decode(_encoded(Image.fromarray(pixels)))[0], pixels * 255)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 127, 128, 129, 256, 257, 385, 386, 1000, 32768, 65407, 65535]], dtype=np.uint16)
    expected = [[int(v / 257 + 0.5) for v in values[0].tolist()]]
    assert decode(_encoded(Image.fromarray(values), kind))[1].tolist() == expected


def test_32_bit_integers_beyond_16_bit_and_floats_are_refused():
    with pytest.raises(CorruptImage, match="do not fit 16 bit"):
        decode(_encoded(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "tiff"))
    with pytest.raises(CorruptImage, match="no known range"):
        decode(_encoded(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "tiff"))


def test_transparency_is_composited_on_white():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    assert decode(_encoded(Image.fromarray(pixels)))[:, 0].T.tolist() == [[10, 20, 30], [255] * 3, [127] * 3]


def test_grey_with_alpha_and_transparent_palette():
    grey = Image.fromarray(np.array([[[40, 255], [40, 0]]], dtype=np.uint8), "LA")
    assert decode(_encoded(grey))[0].tolist() == [[40, 255]]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 200, 0])
    assert decode(_encoded(palette))[:, 0].T.tolist() == [[200, 0, 0], [0, 200, 0]]
    assert decode(_encoded(palette, transparency=1))[:, 0].T.tolist() == [[200, 0, 0], [255, 255, 255]]


def test_transparent_colour_of_an_rgb_png():
    pixels = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert decode(_encoded(pixels, transparency=(1, 2, 3)))[:, 0].T.tolist() == [[255] * 3, [4, 5, 6]]


def test_cmyk_jpeg():
    red = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    image = decode(_encoded(red, "jpeg", quality=95)).float().mean((1, 2))
    assert torch.allclose(image, torch.tensor([250.0, 10.0, 10.0]), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # How the camera stored it, by the EXIF table: what undoes each orientation.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(decode(data)[0], upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_break_the_image():
    data = _encoded(Image.new("RGB", (8, 8), "red"), "jpeg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode(data).shape == (3, 8, 8)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    data = _encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert decode(data)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("factor", [1.5, 3])  # Pillow itself warns up to twice the limit and raises beyond
def test_decompression_bomb_is_an_error(monkeypatch, factor):
    data = _encoded(Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(10_000 / factor))
    with pytest.raises(CorruptImage, match="bomb"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data).shape == (3, 100, 100)


def _png_chunk_broken() -> bytes:
    data = bytearray(_encoded(Image.fromarray(_noise(16, 16, 3))))
    data[60] ^= 0xFF
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        _encoded(Image.fromarray(_noise(64, 64, 3)), "jpeg")[:800],
        _encoded(Image.fromarray(_noise(64, 64, 3)))[:800],
        _png_chunk_broken(),
        b"II*\x00" + struct.pack("<I", 8) + b"\xff" * 40,
        b"BM" + b"\x00" * 60,
    ],
)
def test_damage_is_a_corrupt_image_with_a_reason(data):
    with pytest.raises(CorruptImage, match=r"\w"):
        decode(data)
