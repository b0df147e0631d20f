import io
import multiprocessing

import numpy as np
import pytest
import torch
from multicrop_aug import Jitter, MultiCrop, collate, odc, render, swav
from multicrop_aug._decode import decode_reduced, decode_rgb
from PIL import Image
from torch.utils.data import DataLoader, Dataset

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    return file.getvalue()


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("image", [Image.fromarray(PIXELS), encoded("PNG"), TENSOR], ids=["pil", "png", "tensor"])
def test_any_form_gives_the_crops_of_draw_and_render(image) -> None:
    recipe = swav(24, small_size=8)
    crops = MultiCrop(recipe, seed=5)(image, index=77, epoch=2)
    expected = render([TENSOR], recipe.draw(torch.tensor([77]), 2, (40, 50), seed=5))
    assert [c.shape for c in crops] == [(3, 24, 24)] * 2 + [(3, 8, 8)] * 6
    assert_same(crops, [c[0] for c in expected])


def exif_rotated() -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at it
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif, subsampling="4:2:0", quality=70)
    return file.getvalue()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "jpeg": encoded("JPEG"),
    "jpeg with an orientation": exif_rotated(),
    "progressive jpeg": saved(Image.fromarray(PIXELS), "JPEG", progressive=True),
    "grey jpeg": saved(Image.fromarray(PIXELS).convert("L"), "JPEG"),
    "cmyk jpeg": saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "16-bit png": saved(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
    "png with transparency": saved(Image.fromarray(PIXELS).convert("RGBA"), "PNG"),
    "palette gif": saved(Image.fromarray(PIXELS).convert("P"), "GIF"),
    "webp": saved(Image.fromarray(PIXELS), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_as_pil_reads_them(name: str) -> None:
    theirs = np.array(Image.open(io.BytesIO(FILES[name])).convert("RGB"))
    assert np.array_equal(decode_rgb(FILES[name]).permute(1, 2, 0).numpy(), theirs)


@pytest.mark.parametrize("file", [encoded("JPEG")[:1200], b"\xff\xd8nonsense", b"no image"])
def test_broken_files_raise_pils_errors(file: bytes) -> None:
    with pytest.raises(OSError, match="image file"):
        decode_rgb(file)


def test_jpeg_and_other_modes_are_read_as_rgb() -> None:
    transform = MultiCrop(odc(16))
    assert_same(transform(encoded("JPEG"), 0), transform(Image.open(io.BytesIO(encoded("JPEG"))), 0))
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert transform(Image.fromarray(PIXELS).convert(mode), 0)[0].shape == (3, 16, 16)


def test_without_an_index_images_are_counted() -> None:
    counted, keyed = MultiCrop(odc(8)), MultiCrop(odc(8))
    for i in range(3):
        assert_same(counted(TENSOR), keyed(TENSOR, index=i))


class Items(Dataset):
    def __init__(self, pass_index: bool) -> None:
        self.transform, self.pass_index = MultiCrop(odc(8)), pass_index

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int):
        return (self.transform(TENSOR, index=i) if self.pass_index else self.transform(TENSOR)), i


def loader(pass_index: bool, n_workers: int) -> DataLoader:
    generator = torch.Generator().manual_seed(0)  # of the workers' seeds
    items = Items(pass_index)
    return DataLoader(items, batch_size=2, num_workers=n_workers, collate_fn=collate, generator=generator)


def crops_and_labels(batches: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    crops, labels = zip(*batches, strict=True)
    return torch.cat([c[0] for c in crops]), torch.cat(labels)


def test_workers_do_not_change_keyed_crops() -> None:
    alone, labels = crops_and_labels(loader(pass_index=True, n_workers=0))
    assert torch.equal(alone, crops_and_labels(loader(pass_index=True, n_workers=2))[0])
    assert labels.tolist() == list(range(8))


def test_counted_crops_differ_and_repeat_with_the_seed() -> None:
    batches = loader(pass_index=False, n_workers=2)
    first, second = crops_and_labels(batches)[0], crops_and_labels(batches)[0]
    assert len(torch.cat((first, second)).flatten(1).unique(dim=0)) == 16
    assert torch.equal(first, crops_and_labels(loader(pass_index=False, n_workers=2))[0])


def crops_in_another_process(transform: MultiCrop, queue) -> None:
    torch.set_num_threads(1)
    queue.put([crop.numpy() for crop in transform(TENSOR, index=3)])


def test_a_process_started_anew_gives_the_same_crops() -> None:
    context, transform = multiprocessing.get_context("spawn"), MultiCrop(odc(8))
    queue = context.Queue()
    process = context.Process(target=crops_in_another_process, args=(transform, queue))
    process.start()
    theirs = [torch.from_numpy(crop) for crop in queue.get(timeout=120)]
    process.join()
    assert_same(theirs, transform(TENSOR, index=3))


def large_jpeg(height: int, width: int) -> bytes:
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    pixels = (smooth * 255).byte().permute(1, 2, 0).numpy()
    return saved(Image.fromarray(pixels), "JPEG", quality=95)


@pytest.mark.parametrize(("size", "factor"), [((300, 400), 4), ((301, 397), 4), ((600, 800), 8), ((130, 150), 2)])
def test_reduced_decoding_moves_the_crops_by_less_than_a_pixel(size: tuple[int, int], factor: int) -> None:
    file, recipe = large_jpeg(*size), odc(32, scale=(0.3, 1.0), jitter=Jitter(), rotation_degrees=0.0)
    plan = recipe.draw(torch.tensor([1]), 0, size, seed=0)
    pixels, moved = decode_reduced(file, plan)
    assert pixels.shape[1:] == (-(-size[0] // factor), -(-size[1] // factor))
    box, small = plan.groups[0].box[0, 0] / factor, moved.groups[0].box[0, 0]
    assert (box - small).abs().max() <= 1
    assert small[2:].min() >= 32
    whole, reduced = (MultiCrop(recipe, reduced_decode=reduced)(file, index=1)[0] for reduced in (False, True))
    assert (whole - reduced).abs().mean() < 0.2  # in standard deviations; another crop's is 0.7


def test_reduced_decoding_leaves_alone_what_needs_all_pixels() -> None:
    recipe = odc(32)
    plan = recipe.draw(torch.tensor([1]), 0, (40, 50), seed=0)
    assert decode_reduced(encoded("JPEG"), plan)[1] is plan
    plan = recipe.draw(torch.tensor([1]), 0, (300, 400), seed=0)
    big_png = saved(Image.open(io.BytesIO(large_jpeg(300, 400))), "PNG")
    assert decode_reduced(big_png, plan)[1] is plan


def test_collate_stacks_each_crop() -> None:
    transform = MultiCrop(swav(8, small_size=4, n_small=1))
    samples = [transform(TENSOR, i) for i in range(5)]
    stacked = collate(samples)
    assert [s.shape for s in stacked] == [(5, 3, 8, 8), (5, 3, 8, 8), (5, 3, 4, 4)]
    assert torch.equal(stacked[2][3], samples[3][2])
    crops, labels, names = collate([(s, i, str(i)) for i, s in enumerate(samples)])
    assert_same(crops, stacked)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert names == ["0", "1", "2", "3", "4"]


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="PIL"):
        MultiCrop(odc(8))("photo.jpg")
    with pytest.raises(ValueError, match="channels to the front"):
        MultiCrop(odc(8))(PIXELS)


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="one image"):
        MultiCrop(odc(8))(TENSOR[None])


def test_arrays_give_the_crops_of_tensors() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = MultiCrop(odc(size=12, n_crops=2))
    for crop, other in zip(transform(image.numpy(), 3), transform(image, 3), strict=True):
        assert torch.equal(crop, other)
    assert repr(transform).startswith("MultiCrop(Recipe(specs=(CropSpec(size=12, n_crops=2,")
