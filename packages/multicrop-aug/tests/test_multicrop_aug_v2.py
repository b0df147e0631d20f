import pickle
import subprocess
import sys

import pytest
import torch
from multicrop_aug import MultiCrop, MultiCropV2, collate, dino, odc
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import FakeData
from torchvision.transforms import v2

RECIPE = dino(16, small_size=8, n_small=2)


def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def as_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def expected() -> list[torch.Tensor]:
    return MultiCrop(RECIPE, seed=5)(picture(), index=0)


@pytest.mark.parametrize("wrap", [lambda t: t, as_pil, tv_tensors.Image])
def test_an_image_becomes_its_crops(wrap) -> None:
    crops = MultiCropV2(RECIPE, seed=5)(wrap(picture()))
    assert isinstance(crops, list)
    for mine, other in zip(crops, expected(), strict=True):
        assert torch.equal(mine, other)
        assert type(mine) is torch.Tensor


def test_labels_and_other_inputs_pass_through() -> None:
    transform = v2.Compose([v2.RGB(), MultiCropV2(RECIPE, seed=5)])
    crops, label = transform(as_pil(picture()), 7)
    assert label == 7
    assert [crop.shape[-1] for crop in crops] == [16, 16, 8, 8]

    target = torch.tensor([1.0, 2.0])
    sample = {"image": tv_tensors.Image(picture()), "target": target, "name": "a.jpg", "more": [1, None]}
    out = MultiCropV2(RECIPE, seed=5)(sample)
    assert torch.equal(out["image"][0], expected()[0])
    assert out["target"] is target
    assert (out["name"], out["more"]) == ("a.jpg", [1, None])

    # without another image, the first plain tensor is the image, as in all of v2
    crops, other = MultiCropV2(RECIPE, seed=5)(picture(), target)
    assert torch.equal(crops[0], expected()[0])
    assert other is target


def test_it_is_a_v2_transform_and_can_be_pickled() -> None:
    transform = MultiCropV2(RECIPE, seed=5)
    assert isinstance(transform, v2.Transform)
    again = pickle.loads(pickle.dumps(transform))
    assert torch.equal(again(picture())[0], expected()[0])
    assert "CropSpec" in repr(transform)
    v2.RandomApply([transform], p=1.0)(picture())


def test_boxes_and_masks_are_refused() -> None:
    mask = tv_tensors.Mask(torch.zeros(40, 50, dtype=torch.uint8))
    with pytest.raises(TypeError, match="Mask"):
        MultiCropV2(RECIPE)(tv_tensors.Image(picture()), mask)


@pytest.mark.parametrize("transform", [MultiCrop(odc(16, n_crops=2)), MultiCropV2(odc(16, n_crops=2))])
@pytest.mark.parametrize("collate_fn", [collate, None])
def test_a_torchvision_dataset_and_its_loader(transform, collate_fn) -> None:
    data = FakeData(4, (3, 24, 24), transform=transform)
    crops, labels = next(iter(DataLoader(data, batch_size=4, collate_fn=collate_fn)))
    assert [tuple(crop.shape) for crop in crops] == [(4, 3, 16, 16)] * 2
    assert labels.shape == (4,)


def test_a_list_of_pipelines_as_in_solo_learn() -> None:
    pipelines = [MultiCrop(odc(16, n_crops=2)), MultiCrop(odc(8, n_crops=3))]
    crops: list[torch.Tensor] = []
    for pipeline in pipelines:
        crops.extend(pipeline(as_pil(picture())))
    assert [crop.shape[-1] for crop in crops] == [16, 16, 8, 8, 8]


def test_the_package_does_not_import_torchvision() -> None:
    code = "import sys, multicrop_aug; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_unknown() -> None:
    import multicrop_aug

    with pytest.raises(AttributeError, match="MultiCropV3"):
        multicrop_aug.MultiCropV3  # noqa: B018
