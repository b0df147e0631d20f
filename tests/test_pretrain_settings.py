"""Recipes say what the papers say; the schedule follows the published values."""

from __future__ import annotations

import tomllib

import pytest
from pretrain.data import eval_recipe, train_recipe
from pretrain.method import n_clusters
from pretrain.recipe_files import check_settings, dump, read_recipe, recipe_names
from pretrain.schedule import lr_at
from pretrain.settings import METHODS, OdcSettings, SwavSettings, parse_crops


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_says_what_to_expect(name: str) -> None:
    values, about = read_recipe(name)
    settings = check_settings(values, name)
    assert {"what", "expect", "cost"} <= about.keys()
    assert train_recipe(settings).specs[0].size == parse_crops(settings.crops[0]).size
    assert check_settings(tomllib.loads(dump(settings)), "dump") == settings


def test_step_schedule_drops_once() -> None:
    s = OdcSettings(epochs=440, lr=0.06, lr_steps=(400,), lr_gamma=0.4)
    assert lr_at(0, 10, s) == lr_at(3999, 10, s) == 0.06
    assert lr_at(4000, 10, s) == lr_at(4399, 10, s) == pytest.approx(0.024)


def test_warm_up_and_cosine_have_the_published_values() -> None:
    # 400 epochs of 312 steps at batch 4096: 124,800 values
    s = OdcSettings(epochs=400, lr=4.8, schedule="cosine", final_lr=0.0048, warmup_epochs=10, warmup_lr=0.3)
    assert lr_at(0, 312, s) == pytest.approx(0.3)
    assert lr_at(1, 312, s) == pytest.approx(0.301443, abs=1e-6)
    assert lr_at(3119, 312, s) == lr_at(3120, 312, s) == pytest.approx(4.8)
    assert lr_at(124_799, 312, s) == pytest.approx(0.0048, abs=1e-8)
    small = OdcSettings(epochs=200, lr=0.6, schedule="cosine", final_lr=0.0006)
    assert lr_at(5004, 5004, small) == pytest.approx(0.599963, abs=1e-6)


def test_a_cosine_by_epoch_moves_once_an_epoch() -> None:
    s = SwavSettings(crops=("2x32",), epochs=200, lr=0.6, schedule="cosine", final_lr=0.0006, cosine_by_epoch=True)
    assert lr_at(0, 5004, s) == lr_at(5003, 5004, s) == 0.6
    assert lr_at(5004, 5004, s) == lr_at(10_007, 5004, s) == pytest.approx(0.599963, abs=1e-6)


@pytest.mark.parametrize(("n", "k"), [(1_281_167, 10_000), (10_000, 100), (2_000, 20), (50, 10), (10, 2), (4, 2)])
def test_default_number_of_clusters(n: int, k: int) -> None:
    assert n_clusters(OdcSettings(), n, at_most=10_000) == k


@pytest.mark.parametrize(("crop", "resize"), [(32, 32), (96, 110), (224, 256)])
def test_evaluation_resize(crop: int, resize: int) -> None:
    spec = eval_recipe(OdcSettings(crops=(f"1x{crop}",))).specs[0]
    assert (spec.size, spec.resize) == (crop, resize)


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_frozen_and_complete(method: str) -> None:
    settings = METHODS[method]
    with pytest.raises(Exception, match="frozen"):
        settings(method=method, crops=("2x32",)).lr = 1.0  # type: ignore[misc]
    undocumented = [name for name, field in settings.model_fields.items() if not field.description]
    assert undocumented == ["method"]
