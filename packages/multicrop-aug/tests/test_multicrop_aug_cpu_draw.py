"""The CPU's draw in machine code against the same draw with tensors, which is what other devices run."""

import random

import pytest
import torch
from multicrop_aug import Blur, CropSpec, Jitter, Recipe, evaluation, odc, swav
from multicrop_aug._cpu_draw import draw_groups

ASYMMETRIC = Recipe(
    (
        CropSpec(16, 2, scale=(0.9, 3.0), ratio=(0.1, 9.0)),  # often no try fits: the central box
        CropSpec(16, flip=1.0, jitter=Jitter(0.1, 0.2, 0.3, 0.4, p=0.5), blur=Blur(0.3, (1.0, 3.0))),
        CropSpec(16, interpolation="bicubic", solarise=0.9),
        CropSpec(8, 3),
    ),
    rotation_degrees=20.0,
    grey=0.3,
    solarise=0.3,
)
RECIPES = {"swav": swav(), "odc": odc(32), "evaluation": evaluation(), "asymmetric": ASYMMETRIC}


def some_sizes(draw: random.Random, n: int) -> torch.Tensor:
    corners = [(375, 500), (1, 1), (1, 900), (3, 2), (4000, 13)]
    sizes = [draw.choice([*corners, (draw.randint(1, 4000), draw.randint(1, 4000))]) for _ in range(n)]
    return torch.tensor(sizes, dtype=torch.int64)


@pytest.mark.parametrize("name", RECIPES)
def test_both_draws_agree_to_the_bit(name: str) -> None:
    recipe, draw = RECIPES[name], random.Random(name)
    for n in (0, 1, 1, 7, 300):
        indices = torch.tensor([draw.randrange(-(2**63), 2**63) for _ in range(n)], dtype=torch.int64)
        sizes = some_sizes(draw, n).view(-1, 2)
        key = {"epoch": draw.randrange(1000), "seed": draw.randrange(-(2**70), 2**70)}
        ours = draw_groups(recipe, indices, key["epoch"], sizes, key["seed"])
        theirs = recipe._draw_groups(indices, key["epoch"], sizes, key["seed"])
        for a, b in zip(ours, theirs, strict=True):
            assert (a.size, a.interpolation) == (b.size, b.interpolation)
            for field, tensor in a.tensors().items():
                assert tensor.dtype == b.tensors()[field].dtype
                assert torch.equal(tensor, b.tensors()[field]), field


def test_a_recipe_of_lists_is_drawn() -> None:
    lists = Recipe((CropSpec(8, scale=[0.2, 1.0]),), mean=[0.5] * 3)  # type: ignore[arg-type]
    tuples = Recipe((CropSpec(8, scale=(0.2, 1.0)),))
    ours, theirs = (draw_groups(r, torch.arange(3), 0, torch.full((3, 2), 9), 0) for r in (lists, tuples))
    assert torch.equal(ours[0].box, theirs[0].box)
