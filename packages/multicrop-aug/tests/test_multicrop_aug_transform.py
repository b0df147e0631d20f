import io

import numpy as np
import pytest
import torch
from multicrop_aug import MultiCrop, collate, odc, render, swav
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


def batches(pass_index: bool, n_workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader = DataLoader(Items(pass_index), batch_size=2, num_workers=n_workers, collate_fn=collate)
    crops, labels = zip(*loader, strict=True)
    return torch.cat([c[0] for c in crops]), torch.cat(labels)


def test_workers_do_not_change_keyed_crops_and_never_share_a_counted_one() -> None:
    alone, labels = batches(pass_index=True, n_workers=0)
    assert torch.equal(alone, batches(pass_index=True, n_workers=2)[0])
    assert labels.tolist() == list(range(8))
    counted = batches(pass_index=False, n_workers=2)[0]
    assert len(counted.flatten(1).unique(dim=0)) == 8


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


@pytest.mark.parametrize("image", ["photo.jpg", PIXELS])
def test_other_types_are_refused(image) -> None:
    with pytest.raises(TypeError, match="PIL"):
        MultiCrop(odc(8))(image)


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="one image"):
        MultiCrop(odc(8))(TENSOR[None])
