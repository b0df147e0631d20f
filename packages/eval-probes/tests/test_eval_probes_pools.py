"""Pooling of Feature1 to Feature5: published sizes, values, and images of other sizes than 224 pixels."""

import warnings

import pytest
import torch
from eval_probes import pool_taps
from torch import Tensor, nn

SHAPES = {
    "feature1": (64, 112),
    "feature2": (256, 56),
    "feature3": (512, 28),
    "feature4": (1024, 14),
    "feature5": (2048, 7),
}
DIMS = {"feature1": 9216, "feature2": 9216, "feature3": 8192, "feature4": 9216, "feature5": 8192}
POOLS = {"feature1": (10, 10, 4), "feature2": (16, 8), "feature3": (13, 5), "feature4": (8, 3), "feature5": (6, 1)}


def maps(b: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {tap: torch.rand(b, c, s, s, generator=g) for tap, (c, s) in SHAPES.items()}


def test_dimensions_and_values_of_the_published_pools() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooled = pool_taps(maps(), tuple(SHAPES))
    assert {tap: x.shape[1] for tap, x in pooled.items()} == DIMS
    for tap, x in maps().items():
        assert torch.equal(pooled[tap], nn.AvgPool2d(*POOLS[tap])(x).flatten(1))


def test_padding_of_feature1_counts() -> None:
    pooled = pool_taps({"feature1": torch.ones(1, 1, 112, 112)}, ["feature1"])["feature1"].view(12, 12)
    torch.testing.assert_close(pooled[0, 0], torch.tensor(0.36))
    torch.testing.assert_close(pooled[0, 1:11], torch.full((10,), 0.6))
    torch.testing.assert_close(pooled[1:11, 1:11], torch.ones(10, 10))


def test_avgpool_is_the_global_mean_of_feature5_in_float32() -> None:
    half = {"feature5": maps(3)["feature5"].half()}
    pooled = pool_taps(half, ["avgpool"])["avgpool"]
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, half["feature5"].float().mean((2, 3)))


def test_adaptive_has_the_same_dimensions_and_other_values() -> None:
    pooled = pool_taps(maps(), tuple(SHAPES), "adaptive")
    assert {tap: x.shape[1] for tap, x in pooled.items()} == DIMS
    assert not torch.allclose(pooled["feature5"], pool_taps(maps(), ["feature5"])["feature5"])


def test_other_image_sizes_fall_back_and_say_so() -> None:
    small = {"feature1": torch.ones(2, 3, 16, 16).cumsum(3), "feature5": torch.ones(2, 5, 1, 1)}
    with (
        pytest.warns(UserWarning, match="feature1 is 16x16, not the 112x112"),
        pytest.warns(UserWarning, match="feature5 is 1x1, not the 7x7"),
    ):
        pooled = pool_taps(small, ["feature1", "feature5"])
    assert pooled["feature1"].shape == (2, 3 * 144)
    assert torch.equal(pooled["feature5"], small["feature5"].expand(2, 5, 2, 2).flatten(1))
    assert torch.equal(pooled["feature1"], nn.AdaptiveAvgPool2d(12)(small["feature1"]).flatten(1))


def test_errors() -> None:
    with pytest.raises(ValueError, match="unknown tap 'feature6'; known: feature1"):
        pool_taps(maps(), ["feature6"])
    with pytest.raises(ValueError, match="avgpool needs feature5"):
        pool_taps({"feature1": torch.zeros(1, 1, 2, 2)}, ["avgpool"])
