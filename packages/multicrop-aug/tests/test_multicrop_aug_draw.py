import io
import math
from dataclasses import replace

import pytest
import torch
from multicrop_aug import Blur, CentreSpec, CropPlan, CropSpec, Jitter, Recipe, deepcluster_v2, evaluation, odc, swav
from scipy import stats
from tensor_draw import stream_keys, uniform
from torchvision.transforms import ColorJitter, RandomResizedCrop

N = 5000


def plan_tensors(plan: CropPlan) -> list[torch.Tensor]:
    return [t for group in plan.groups for t in group.tensors().values()]


def assert_same(a: CropPlan, b: CropPlan) -> None:
    assert all(torch.equal(x, y) for x, y in zip(plan_tensors(a), plan_tensors(b), strict=True))


def naive_box(spec: CropSpec, u: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """torchvision's get_params, with Python's round, fed the uniforms of one stream."""
    for k in range(10):
        area = height * width * (spec.scale[0] + (spec.scale[1] - spec.scale[0]) * u[k])
        low, high = math.log(spec.ratio[0]), math.log(spec.ratio[1])
        aspect = math.exp(low + (high - low) * u[10 + k])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int((height - h + 1) * u[20 + k]), int((width - w + 1) * u[30 + k]), h, w
    if width / height < min(spec.ratio):
        w, h = width, round(width / min(spec.ratio))
    elif width / height > max(spec.ratio):
        w, h = round(height * max(spec.ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (32, 32), (375, 500), (333, 100)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.05, 0.14), (0.9, 1.0), (2.0, 2.0)])
def test_boxes_equal_torchvisions_algorithm(size: tuple[int, int], scale: tuple[float, float]) -> None:
    spec = CropSpec(8, 2, scale)
    group = Recipe((spec,)).draw(torch.arange(100), 1, size, seed=3).groups[0]
    u = uniform(stream_keys(3, 1, torch.arange(100), torch.arange(2))[..., None], torch.arange(40))
    for v in range(2):
        for b in range(100):
            assert tuple(group.box[v, b].tolist()) == naive_box(spec, u[v, b].tolist(), *size)
    assert (group.resized == 8).all()
    assert not group.offset.any()


def test_boxes_are_distributed_as_torchvisions() -> None:
    height, width = 375, 500
    box = odc(32).draw(torch.arange(N), 0, (height, width), seed=0).groups[0].box[0].double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(N)]
        ).double()
    for mine, other in [*zip(box.T, theirs.T, strict=True), (box[:, 2] * box[:, 3], theirs[:, 2] * theirs[:, 3])]:
        assert stats.ks_2samp(mine.numpy(), other.numpy()).pvalue > 0.01


def test_jitter_is_distributed_as_torchvisions() -> None:
    group = odc(32).draw(torch.arange(N), 0, (32, 32), seed=0).groups[0]
    jitter = ColorJitter(0.4, 0.4, 1.0, 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [
            ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(N)
        ]
    for k in range(4):
        assert stats.ks_2samp(group.factors[0, :, k].numpy(), [d[1 + k] for d in drawn]).pvalue > 0.01
    code = torch.tensor([64, 16, 4, 1])
    counts = (group.jitter_order[0].long() @ code).unique(return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    assert (group.jitter_order.sort(-1).values == torch.arange(4)).all()


def test_flags_and_ranges_follow_the_recipe() -> None:
    recipe = swav(8, small_size=4, solarise=0.1, rotation_degrees=5.0, flip=0.3)
    group = recipe.draw(torch.arange(N), 7, (32, 32), seed=0).groups[0]
    for name, p in {"flip": 0.3, "jitter": 0.8, "grey": 0.2, "blur": 0.5, "solarise": 0.1}.items():
        assert stats.binomtest(int(getattr(group, name).sum()), 2 * N, p).pvalue > 0.01
    for name, low, high in [("angle", -5.0, 5.0), ("sigma", 0.1, 2.0)]:
        assert stats.kstest(getattr(group, name).flatten().numpy(), "uniform", (low, high - low)).pvalue > 0.01


def test_a_draw_does_not_depend_on_batch_order_or_neighbours() -> None:
    recipe = swav()
    sizes = torch.tensor([[375, 500], [32, 32], [1, 500], [64, 48]])
    indices = torch.tensor([5, 900_000, 0, 17])
    whole = recipe.draw(indices, 4, sizes, seed=9)
    shuffled = torch.tensor([2, 0, 3, 1])
    other = recipe.draw(indices[shuffled], 4, sizes[shuffled], seed=9)
    alone = recipe.draw(indices[1:2], 4, sizes[1:2], seed=9)
    for a, b, c in zip(plan_tensors(whole), plan_tensors(other), plan_tensors(alone), strict=True):
        assert torch.equal(a[:, shuffled], b)
        assert torch.equal(a[:, 1:2], c)
    # a crop's draw does not depend on how many crops follow it
    first = replace(recipe, specs=recipe.specs[:1]).draw(indices, 4, sizes, seed=9)
    assert torch.equal(first.groups[0].box, whole.groups[0].box)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_epoch_and_seed_change_the_draw(change: dict[str, int]) -> None:
    keys = {"epoch": 0, "seed": 0}
    a, b = (odc().draw(torch.arange(50), sizes=(375, 500), **(keys | k)) for k in ({}, change))
    assert (a.groups[0].box != b.groups[0].box).any(-1).all()


def test_golden_draws() -> None:
    """Seeds must always draw these numbers. Never update this test; add a new generator instead."""
    plan = swav(rotation_degrees=2.0, solarise=0.2).draw(torch.tensor([0, 123_456]), 3, (375, 500), seed=42)
    large, small = plan.groups
    assert large.box.tolist() == [[[48, 53, 302, 340], [0, 6, 375, 480]], [[16, 128, 287, 358], [9, 21, 255, 316]]]
    assert small.box[5].tolist() == [[55, 41, 163, 158], [29, 206, 138, 135]]
    assert large.flip.tolist() == [[False, True], [False, False]]
    assert large.jitter_order.tolist() == [[[1, 0, 3, 2], [1, 3, 2, 0]], [[2, 0, 3, 1], [2, 3, 1, 0]]]
    assert large.blur.tolist() == [[True, True], [True, False]]
    assert large.solarise.tolist() == [[False, False], [False, True]]
    assert small.grey.int().tolist() == [[0, 1], [0, 0], [1, 0], [0, 1], [0, 0], [0, 0]]
    torch.testing.assert_close(large.angle, torch.tensor([[-0.65823543, 1.97128487], [-1.64866745, 1.38559651]]))
    torch.testing.assert_close(large.factors[1, 1], torch.tensor([1.21677279, 0.48620683, 1.79618740, -0.14105703]))
    torch.testing.assert_close(large.sigma, torch.tensor([[0.79027635, 1.99328721], [0.47945890, 0.91116154]]))


def test_no_global_generator_is_read_or_moved() -> None:
    state = torch.get_rng_state()
    a = odc().draw(torch.arange(4), 0, (50, 60), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(77)
        b = odc().draw(torch.arange(4), 0, (50, 60), seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert_same(a, b)


def test_plan_survives_a_file_and_is_indexed_by_crop() -> None:
    plan = swav(solarise=0.2).draw(torch.arange(3), 0, (40, 50), seed=0)
    file = io.BytesIO()
    torch.save(plan.state_dict(), file)
    file.seek(0)
    again = CropPlan.from_state_dict(torch.load(file, weights_only=True))
    assert_same(plan, again)
    assert again.order == plan.order
    assert (again.mean, again.std) == (plan.mean, plan.std)
    assert_same(plan, plan.to("cpu"))

    assert len(plan) == plan.n_crops == 8
    assert torch.equal(plan[1].groups[0].box, plan.groups[0].box[1:2])
    assert torch.equal(plan[7].groups[0].box, plan.groups[1].box[5:6])
    assert [p.groups[0].size for p in plan] == [224, 224] + [96] * 6


def test_ready_recipes_hold_the_references_constants() -> None:
    assert odc().specs == (CropSpec(224, 1, (0.08, 1.0), (3 / 4, 4 / 3)),)
    assert odc().jitter == Jitter(0.4, 0.4, 1.0, 0.5, p=1.0)
    assert (odc().flip, odc().rotation_degrees, odc().grey, odc().blur.p) == (0.5, 2.0, 0.2, 0.0)
    assert odc().std == (0.229, 0.224, 0.225)
    assert swav().specs == (CropSpec(224, 2, (0.14, 1.0)), CropSpec(96, 6, (0.05, 0.14)))
    assert swav().jitter == Jitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    assert (swav().grey, swav().blur, swav().std) == (0.2, Blur(0.5, (0.1, 2.0)), (0.228, 0.224, 0.225))
    assert deepcluster_v2().specs == (CropSpec(224, 2, (0.08, 1.0)),)
    assert deepcluster_v2(160, n_small=4).specs[1] == CropSpec(96, 4, (0.05, 0.14))
    assert evaluation().specs == (CentreSpec(224, 256),)
    assert odc(32, grey=0.0).grey == 0.0


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CropSpec(0), "size"),
        (lambda: CropSpec(8, scale=(0.5, 0.1)), "scale"),
        (lambda: CentreSpec(8, 4), "resize"),
        (lambda: Jitter(hue=0.6), "hue"),
        (lambda: Blur(sigma=(0.0, 1.0)), "sigma"),
        (lambda: odc(grey=1.5), "grey"),
        (lambda: odc(order=("flip", "jitter")), "rotation"),
        (lambda: odc(order=("flip", "flop")), "order"),
        (lambda: Recipe(()), "CropSpec"),
        (lambda: odc().draw(torch.arange(2.0), 0, (4, 4), 0), "int64"),
        (lambda: odc().draw(torch.arange(2), 0, torch.ones(3, 2), 0), "sizes"),
        (lambda: odc().draw(torch.arange(2), 0, (0, 4), 0), "1 x 1"),
    ],
)
def test_bad_values_are_named(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
