import io
from dataclasses import replace

import pytest
import torch
from multicrop_aug import (
    Blur,
    CentreSpec,
    CropPlan,
    CropSpec,
    Jitter,
    Recipe,
    byol,
    dino,
    evaluation,
    moco_v3,
    odc,
    render,
    simclr,
    swav,
)

IMAGENET_STD = (0.229, 0.224, 0.225)
BYOL_JITTER = Jitter(0.4, 0.4, 0.2, 0.1, p=0.8)


def test_simclr() -> None:
    recipe = simclr()
    assert recipe.specs == (CropSpec(224, 2, (0.08, 1.0), (3 / 4, 4 / 3), "bicubic"),)
    assert recipe.jitter == Jitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    assert (recipe.flip, recipe.grey, recipe.blur, recipe.solarise) == (0.5, 0.2, Blur(0.5, (0.1, 2.0)), 0.0)
    assert recipe.std == IMAGENET_STD
    cifar = simclr(32, strength=0.5, blur=Blur(p=0.0))
    assert cifar.jitter == Jitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    assert "blur" not in cifar.draw(torch.arange(2), 0, (32, 32), 0).order


@pytest.mark.parametrize(
    ("recipe", "scale", "interpolation"),
    [(byol(), (0.08, 1.0), "bicubic"), (moco_v3(), (0.2, 1.0), "bilinear")],
)
def test_byol_and_moco_v3(recipe: Recipe, scale: tuple[float, float], interpolation: str) -> None:
    first, second = recipe.specs
    for spec in (first, second):
        assert isinstance(spec, CropSpec)
        assert (spec.size, spec.n_crops, spec.scale, spec.interpolation) == (224, 1, scale, interpolation)
        assert (recipe.setting(spec, "flip"), recipe.setting(spec, "grey")) == (0.5, 0.2)
        assert recipe.setting(spec, "jitter") == BYOL_JITTER
    assert [recipe.setting(spec, "blur") for spec in recipe.specs] == [Blur(1.0, (0.1, 2.0)), Blur(0.1, (0.1, 2.0))]
    assert [recipe.setting(spec, "solarise") for spec in recipe.specs] == [0.0, 0.2]
    assert (recipe.std, recipe.solarise_threshold) == (IMAGENET_STD, 0.5)
    assert [name for name in recipe.order if name != "rotation"] == ["flip", "jitter", "grey", "blur", "solarise"]


def test_dino() -> None:
    recipe = dino()
    assert [(spec.size, spec.n_crops, spec.scale) for spec in recipe.specs] == [  # type: ignore[union-attr]
        (224, 1, (0.4, 1.0)),
        (224, 1, (0.4, 1.0)),
        (96, 8, (0.05, 0.4)),
    ]
    assert {spec.interpolation for spec in recipe.specs} == {"bicubic"}
    assert [recipe.setting(spec, "blur").p for spec in recipe.specs] == [1.0, 0.1, 0.5]
    assert [recipe.setting(spec, "solarise") for spec in recipe.specs] == [0.0, 0.2, 0.0]
    assert (recipe.jitter, recipe.grey, recipe.flip, recipe.n_crops) == (BYOL_JITTER, 0.2, 0.5, 10)
    assert dino(n_small=0).n_crops == 2
    assert dino(160, small_size=64, n_small=2).specs[2].size == 64


def test_evaluation_may_be_bicubic() -> None:
    assert evaluation(interpolation="bicubic").specs == (CentreSpec(224, 256, interpolation="bicubic"),)
    assert evaluation().specs[0].interpolation == "bilinear"


def test_a_keyword_holds_for_every_crop() -> None:
    recipe = dino(blur=Blur(0.3), solarise=0.0, grey=0.0)
    assert [recipe.setting(spec, "blur") for spec in recipe.specs] == [Blur(0.3)] * 3
    assert [recipe.setting(spec, "solarise") for spec in recipe.specs] == [0.0] * 3
    assert "solarise" not in recipe.draw(torch.arange(2), 0, (40, 40), 0).order
    assert byol(interpolation="bilinear").specs[0].interpolation == "bilinear"


def test_crops_get_their_own_distortions() -> None:
    spec = CropSpec(8)
    specs = (
        replace(spec, flip=1.0, jitter=Jitter(0.1, p=1.0), grey=1.0, blur=Blur(1.0, (3.0, 3.0)), solarise=1.0),
        replace(spec, flip=0.0, jitter=Jitter(hue=0.5, p=0.0), grey=0.0, blur=Blur(0.0), solarise=0.0),
        spec,
    )
    both = Recipe(specs, flip=0.5, jitter=Jitter(0.8, 0.8, 0.8, 0.2, p=0.5), grey=0.5, blur=Blur(0.5), solarise=0.5)
    (group,) = both.draw(torch.arange(2000), 0, (32, 32), seed=0).groups
    for name in ("flip", "jitter", "grey", "blur", "solarise"):
        shares = getattr(group, name).float().mean(1)
        assert shares[0] == 1
        assert shares[1] == 0
        assert abs(shares[2] - 0.5) < 0.06
    assert ((group.factors[0, :, 0] - 1).abs() <= 0.1).all()
    assert (group.factors[0, :, 1:] == torch.tensor([1.0, 1.0, 0.0])).all()
    assert (group.sigma[0] == 3).all()
    # the numbers are those of the same crop in a symmetric recipe
    (plain,) = replace(both, specs=(replace(spec, n_crops=3),)).draw(torch.arange(2000), 0, (32, 32), seed=0).groups
    assert torch.equal(plain.box, group.box)
    assert torch.equal(plain.jitter_order, group.jitter_order)
    assert torch.equal(plain.factors[2], group.factors[2])


def test_lists_from_a_configuration_are_as_good_as_tuples() -> None:
    lists = Recipe([CropSpec(8, 1, [0.2, 1.0], [1.0, 1.0])], blur=Blur(0.5, [0.1, 1.0]), order=["blur", "flip"])  # type: ignore[arg-type]
    tuples = Recipe((CropSpec(8, 1, (0.2, 1.0), (1.0, 1.0)),), blur=Blur(0.5, (0.1, 1.0)), order=("blur", "flip"))
    assert lists == tuples
    assert hash(lists) == hash(tuples)
    assert lists.draw(torch.arange(2), 0, (9, 9), 0).n_crops == 1


def test_crops_of_one_size_are_one_group() -> None:
    plan = dino().draw(torch.arange(3), 0, (50, 60), seed=0)
    assert [(group.size, group.n_crops, group.interpolation) for group in plan.groups] == [
        (224, 2, "bicubic"),
        (96, 8, "bicubic"),
    ]
    mixed = Recipe((CropSpec(8), CropSpec(8, interpolation="bicubic"), CropSpec(4), CropSpec(8)))
    plan = mixed.draw(torch.arange(3), 0, (50, 60), seed=0)
    assert [(group.size, group.interpolation) for group in plan.groups] == [
        (8, "bilinear"),
        (8, "bicubic"),
        (4, "bilinear"),
        (8, "bilinear"),
    ]


def test_interpolation_survives_files_devices_and_indexing() -> None:
    plan = byol(8).draw(torch.arange(3), 0, (50, 60), seed=0)
    file = io.BytesIO()
    torch.save(plan.state_dict(), file)
    file.seek(0)
    again = CropPlan.from_state_dict(torch.load(file, weights_only=True))
    assert [p.groups[0].interpolation for p in (again, plan.to("cpu"), plan[1])] == ["bicubic"] * 3
    assert torch.equal(again.groups[0].box, plan.groups[0].box)


def test_an_old_plan_without_interpolation_is_bilinear() -> None:
    state = swav(8, n_small=0).draw(torch.arange(3), 0, (50, 60), seed=0).state_dict()
    for group in state["groups"]:
        del group["interpolation"]
    assert CropPlan.from_state_dict(state).groups[0].interpolation == "bilinear"


def test_a_plan_names_only_what_its_recipe_draws() -> None:
    assert evaluation().draw(torch.arange(1), 0, (300, 300), 0).order == ()
    assert odc().draw(torch.arange(1), 0, (40, 40), 0).order == ("flip", "rotation", "jitter", "grey")
    last = swav(order=("jitter", "grey", "blur", "flip"))
    assert last.draw(torch.arange(1), 0, (40, 40), 0).order == ("jitter", "grey", "blur", "flip")


@pytest.mark.parametrize("make", [simclr, byol, moco_v3, dino, swav, odc])
def test_every_recipe_renders(make) -> None:
    small = {"small_size": 8, "n_small": 2} if make in (dino, swav) else {}
    recipe = make(16, **small)
    images = torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = render(images, recipe.draw(torch.arange(4), 0, (20, 24), seed=0))
    assert [crop.shape[-1] for crop in crops] == [spec.size for spec in recipe.specs for _ in range(spec.n_crops)]
    assert all(crop.isfinite().all() for crop in crops)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CropSpec(8, interpolation="nearest"), "bilinear"),
        (lambda: CentreSpec(8, 8, interpolation="nearest"), "bilinear"),
        (lambda: CropSpec(8, flip=1.5), "flip"),
        (lambda: CropSpec(8, solarise=-0.1), "solarise"),
        (lambda: Recipe((CropSpec(8, blur=Blur()),), order=("flip",)), "blur"),
        (lambda: byol(order=("flip", "jitter", "grey", "blur")), "solarise"),
    ],
)
def test_bad_values_are_named(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
