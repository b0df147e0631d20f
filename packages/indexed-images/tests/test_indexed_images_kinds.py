"""Images of other kinds than 8-bit photographs: more bits, floats, transparency, pages, bands, huge and long ones."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from indexed_images import CorruptImage, open_images, open_train_and_test
from indexed_images._decode import decode
from indexed_images._resident import resize_and_crop
from PIL import Image

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def saved(root: Path, images: list[Image.Image], suffix: str = ".png", **options) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        image.save(root / f"{k}{suffix}", **options)
    return f"folder:{root}"


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values)


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 9), (".png", 10), (".tiff", 12), (".png", 12), (".tif", 14)])
def test_the_bits_of_a_sensor_are_found(tmp_path, suffix, bits):
    high = 2**bits - 1
    values = [(part * RAMP * high).round().astype(np.uint16) for part in (1.0, 0.5)]
    images = open_images(saved(tmp_path, [grey(v) for v in values], suffix))
    assert images.pixel_range == (0, high)
    for k in range(2):
        assert images[k].image[0].tolist() == np.floor(values[k] * 255.0 / high + 0.5).tolist()
    assert f"0 is taken as black, {high} as white (--pixel-range LOW,HIGH changes it)" in images.remarks[0]


def test_full_16_bits_need_no_remark(tmp_path):
    images = open_images(saved(tmp_path, [grey((RAMP * 65535).astype(np.uint16))]))
    assert (images.pixel_range, images.remarks) == ((0, 65535), ())


def test_a_range_that_is_given(tmp_path):
    spec = saved(tmp_path, [grey(np.array([[0, 100, 300, 500, 900]], dtype=np.uint16))])
    assert open_images(spec, pixel_range=(100, 500))[0].image[0].tolist() == [[0, 0, 128, 255, 255]]
    for wrong in ((5, 5), (9, 1), (0, float("nan"))):
        with pytest.raises(ValueError, match="pixel_range must be 'auto' or"):
            open_images(spec, pixel_range=wrong)


@pytest.mark.parametrize(("scale", "high"), [(1.0, 1.0), (255.0, 255.0), (4000.0, 4095.0)])
def test_the_range_of_floats(tmp_path, scale, high):
    values = (RAMP * scale).astype(np.float32)
    images = open_images(saved(tmp_path, [grey(values)], ".tiff"))
    assert images[0].image[0].tolist() == np.floor(values.astype(np.float64) * 255 / high + 0.5).tolist()


@pytest.mark.parametrize("values", [[[-1.0, 1.0]], [[0.0, 1e6]], [[np.nan, 0.0]]])
def test_floats_of_no_likely_range(tmp_path, values):
    with pytest.raises(ValueError, match=r"have no known range: give it|NaN or infinite"):
        open_images(saved(tmp_path, [grey(np.array(values, dtype=np.float32))], ".tiff"))


def test_test_images_take_the_range_of_training_images(tmp_path):
    bright, dark = (RAMP * 4095).astype(np.uint16), (RAMP * 400).astype(np.uint16)
    for split, values in (("train", bright), ("val", dark)):
        for name in "ab":
            saved(tmp_path / split / name, [grey(values)])
    train, test, _ = open_train_and_test(f"folder:{tmp_path}")
    assert train.pixel_range == test.pixel_range == (0, 4095)
    assert test[0].image.max() == 25


@pytest.mark.parametrize(("train", "test"), [(4095, 65535), (65535, 4095), (1023, 4095), (1.0, 4095)])
def test_sets_of_other_ranges_are_refused(tmp_path, train, test):
    for name, high in (("A", train), ("B", test)):
        for cls in "ab":
            values = RAMP * high
            saved(tmp_path / name / cls, [grey(values.astype(np.float32 if high == 1 else np.uint16))], ".tiff")
    with pytest.raises(ValueError, match=r"pixels reach from 0 to .* name the range of both with pixel_range"):
        open_train_and_test(f"folder:{tmp_path}/A", f"folder:{tmp_path}/B")
    if train != 1023:  # joined sets may differ by a few bits
        with pytest.raises(ValueError, match=r"different ranges|no range in common"):
            open_images(f"folder:{tmp_path}/A+folder:{tmp_path}/B")
    given = open_train_and_test(f"folder:{tmp_path}/A", f"folder:{tmp_path}/B", pixel_range=(0, 4095))
    assert given.test.pixel_range == (0, 4095)


def test_values_beyond_the_sample_are_an_error(tmp_path):
    spec = saved(tmp_path, [grey((RAMP * (16383 if k == 5 else 1000)).astype(np.uint16)) for k in range(100)])
    images = open_images(spec)
    order = [images.name(i).endswith("/5.png") for i in range(100)]
    assert images.pixel_range == (0, 1023)
    with pytest.raises(CorruptImage, match=r"pixels from 0 to 16383 are beyond 0 to 1023, which a sample"):
        images[order.index(True)]
    assert open_images(spec, pixel_range=(0, 1023))[order.index(True)].image.max() == 255


def test_a_few_bright_pixels_are_said(tmp_path):
    values = np.full((64, 64), 900, dtype=np.uint16)
    values[0, 0] = 63536
    assert "nearly all pixels lie below 900" in " ".join(open_images(saved(tmp_path, [grey(values)])).remarks)


def test_12_bits_in_several_channels_are_refused(tmp_path):
    """Pillow reads the upper 8 of 16 bits per channel, so that these would be near black."""
    values = (np.stack([RAMP, RAMP], 2) * 4095).astype(">u2")
    buffer = io.BytesIO()
    _write_png16(buffer, values)
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"16 bits per channel and use the lowest 4,\d+ values.*near black"):
        open_images(f"folder:{tmp_path}")


def _write_png16(file: io.BytesIO, values: np.ndarray) -> None:
    """Write grey with alpha, 16 bits each, which Pillow cannot write."""
    import struct
    import zlib

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    file.write(b"\x89PNG\r\n\x1a\n")
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def rgba(colour: tuple[int, int, int], alpha: np.ndarray) -> Image.Image:
    pixels = np.empty((*alpha.shape, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, alpha
    return Image.fromarray(pixels)


def test_white_on_transparent_is_said_and_can_be_read(tmp_path):
    drawing = np.zeros((8, 8), dtype=np.uint8)
    drawing[2:5] = 255
    spec = saved(tmp_path, [rgba((255, 255, 255), drawing), rgba((0, 0, 0), drawing)])
    images = open_images(spec)
    assert images.remarks == (
        "1 of 2 images looked at have no content on white where they are transparent (--alpha white|black|ignore)",
    )
    assert open_images(spec, alpha="black")[0].image[0].tolist() == drawing.tolist()
    assert open_images(spec, alpha="ignore")[0].image.min() == 255
    with pytest.raises(ValueError, match="alpha must be"):
        open_images(spec, alpha="grey")


def test_fully_transparent_images_are_said(tmp_path):
    images = open_images(saved(tmp_path, [rgba((9, 9, 9), np.zeros((4, 4), dtype=np.uint8))]))
    assert "1 of 1 images looked at have no content on white" in images.remarks[0]


def test_pages_and_bands_of_a_tiff_are_said(tmp_path):
    first, second = Image.new("L", (4, 4), 7), Image.new("L", (4, 4), 9)
    first.save(tmp_path / "pages.tiff", save_all=True, append_images=[second])
    images = open_images(f"folder:{tmp_path}")
    assert images[0].image.unique().tolist() == [7]
    assert images.remarks == ("1 of 1 images looked at have several pages or frames, of which the first is read",)
    four = np.full((4, 4, 4), 200, dtype=np.uint8)
    four[..., 3] = 50  # near infrared
    saved(tmp_path / "bands", [Image.fromarray(four)], ".tif")
    file = tmp_path / "bands" / "0.tif"
    file.write_bytes(_without_extra_samples(file.read_bytes()))
    images = open_images(f"folder:{tmp_path / 'bands'}")
    said = "TIFFs whose fourth band is taken for transparency (--alpha ignore leaves it out)"
    assert said in " ".join(images.remarks)
    assert open_images(f"folder:{tmp_path / 'bands'}", alpha="ignore")[0].image.unique().tolist() == [200]


def _without_extra_samples(data: bytes) -> bytes:
    """Rename the tag of a TIFF that says what the fourth band is."""
    return data.replace((338).to_bytes(2, "little") + b"\x03\x00", (65000).to_bytes(2, "little") + b"\x03\x00")


def test_the_limit_of_pixels_is_an_option(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    spec = saved(tmp_path, [Image.new("L", (30, 30))])  # more than twice the limit, which Pillow itself refuses
    with pytest.raises(CorruptImage, match=r"raise it with max_pixels, on a command line --max-pixels"):
        open_images(spec)[0]
    assert open_images(spec, max_pixels=900)[0].image.shape == (3, 30, 30)
    with pytest.raises(CorruptImage, match="30x30 pixels, limit 899"):
        open_images(spec, max_pixels=899)[0]


def test_a_jpeg_is_shrunk_while_it_is_read(tmp_path):
    pixels = np.kron(np.random.default_rng(0).integers(0, 255, (6, 8, 3)), np.ones((100, 100, 1))).astype(np.uint8)
    spec = saved(tmp_path, [Image.fromarray(pixels)], ".jpg", quality=95)
    data = (tmp_path / "0.jpg").read_bytes()
    sizes = {at_least: tuple(decode(data, at_least=at_least).shape[1:]) for at_least in (None, 200, 100, 50, 8)}
    assert sizes == {None: (600, 800), 200: (600, 800), 100: (300, 400), 50: (150, 200), 8: (75, 100)}
    small = open_images(spec).resident(size=32)[0].int()
    assert (small - resize_and_crop(decode(data), 32).int()).abs().float().mean() < 2


@pytest.mark.parametrize("shape", [(50, 230), (230, 50), (7, 61), (13, 300)])
@pytest.mark.parametrize("size", [7, 32])
def test_a_long_image_is_cropped_before_it_is_resized(shape, size):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    short = min(shape)
    target = [int(size * n / short) for n in shape]
    whole = torch.nn.functional.interpolate(image[None], target, mode="bilinear", antialias=True)[0]
    top, left = (round((n - size) / 2) for n in target)
    assert (resize_and_crop(image, size).int() - whole[:, top : top + size, left : left + size].int()).abs().max() <= 1


def test_long_images_take_little_memory():
    tracemalloc.start()
    for shape in ((3, 10, 20_000), (3, 1, 5_000), (3, 5_000, 1)):
        assert resize_and_crop(torch.zeros(shape, dtype=torch.uint8), 224).shape == (3, 224, 224)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    heif.from_pillow(Image.new("RGB", (16, 8), (200, 30, 30))).save(tmp_path / "phone.HEIC", quality=95)
    images = open_images(f"folder:{tmp_path}")
    assert images.remarks == ()
    assert images[0].image.shape == (3, 8, 16)
    assert (images[0].image.float().mean((1, 2)) - torch.tensor([200.0, 30.0, 30.0])).abs().max() < 6
