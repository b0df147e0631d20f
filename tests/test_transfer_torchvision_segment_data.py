"""segment with torchvision: sizes, crops and colours of what is trained on."""

import colorsys
from pathlib import Path

import numpy as np
import pytest
import segment.torchvision_engine as segment_engine
import torch
from indexed_images import export_shapes
from segment.torchvision_data import Maps, Sizes, fit, photometric_distortion, random_crop, saturate


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voc") / "drawn"
    export_shapes(folder, "voc", n_train=8, n_val=3, size=64)
    return folder


def test_images_fit_into_two_limits_in_their_shape() -> None:
    assert fit((375, 500), 2048, 512) == (512, 683)
    assert fit((100, 1000), 2048, 512) == (205, 2048)
    assert fit((1024, 2048), 2049, 1025) == (1025, 2049)


def test_a_crop_is_drawn_again_while_one_class_has_most_of_it() -> None:
    labels = torch.zeros(40, 40, dtype=torch.uint8)
    labels[:, 34:] = 1
    image = torch.arange(40.0).expand(3, 40, 40)
    mixed = 0
    for seed in range(60):
        crop, of_crop = random_crop(image, labels, 16, torch.Generator().manual_seed(seed))
        assert torch.equal((crop[0] >= 34).to(torch.uint8), of_crop)  # both are cut alike
        mixed += bool(0.25 < (of_crop == 1).float().mean() < 0.75)
    # 2 of 25 places hold more than a quarter of the other class: 8 % of single draws, 60 % of eleven
    assert 25 < mixed < 50
    small = random_crop(image[:, :5, :7], torch.full((5, 7), 255, dtype=torch.uint8), 16, torch.Generator())
    assert small[0].shape == (3, 5, 7)


def test_training_crops_are_padded_with_what_does_not_count(voc: Path) -> None:
    pairs = segment_engine.files(voc / "VOC2012", "voc", "train")
    assert len(pairs) == 8
    assert {mask.parent.name for _, mask in pairs} == {"SegmentationClass", "SegmentationClassAug"}
    maps = Maps(pairs, 13, Sizes(60, 30, crop=64), seed=0)
    padded = 0
    for key in range(8):
        image, labels = maps[key, key]
        assert image.shape == (3, 64, 64)
        assert labels.shape == (64, 64)
        beyond = (image == 0).all(0)
        assert bool((labels[beyond] == 255).all())
        padded += int(beyond.sum())
    assert padded > 0
    assert all(torch.equal(a, b) for a, b in zip(maps[3, 1], maps[3, 1], strict=True))
    assert not torch.equal(maps[3, 1][0], maps[4, 1][0])


def test_saturation_is_that_of_hsv() -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(3, 5, 6, generator=g)
    image[:, 0, 0] = 0
    image[:, 0, 1] = 0.5
    for factor in (0.5, 1.0, 1.5):
        made = saturate(image, factor)
        for y, x in np.ndindex(5, 6):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            expected = colorsys.hsv_to_rgb(h, min(1.0, s * factor), v)
            assert made[:, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_distortion_stays_in_range_and_is_skipped_half_the_time() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = [photometric_distortion(image, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in made)
    untouched = sum(torch.equal(one, image) for one in made)
    assert 4 <= untouched <= 24  # one sixteenth of 200 is 12.5
