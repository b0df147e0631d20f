"""FineTune's grid, choices and subsets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from eval_probes import (
    SEMI_1PERCENT,
    SEMI_10PERCENT,
    FineTune,
    FineTuneCell,
    FineTuneProtocol,
    read_subset_list,
    subset_indices,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 2
    g = torch.Generator().manual_seed(seed)
    return 2.0 * y[:, None] - 1 + torch.randn(n, 4, generator=g), 10 * y


TRAIN, VAL, HELD = data(24, 0), data(60, 1), data(20, 2)
SMALL = replace(SEMI_1PERCENT, epochs=4, milestones=(2, 3), lr=(0.1, 1e-5), head_multiplier=(1.0, 10.0))


def make_model() -> nn.Module:
    model = nn.utils.skip_init(nn.Linear, 4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-0.5, 0.5, 12).view(3, 4))
        model.bias.zero_()
    return model


def batches(epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(100 * seed + epoch))
    for rows in order.split(8):
        yield TRAIN[0][rows], TRAIN[1][rows]


def fine_tune(seeds: tuple[int, ...] = (0,), protocol: FineTuneProtocol = SMALL) -> FineTune:
    return FineTune(make_model, dim=3, classes=[0, 10], protocol=protocol, seeds=seeds)


def test_presets_are_the_published_protocols() -> None:
    grid = ((0.1, 0.01, 0.001), (1.0, 10.0, 100.0))
    assert FineTuneProtocol(5e-4, 20, 256, 0.9, (12, 16), 0.2, *grid) == SEMI_1PERCENT
    assert FineTuneProtocol(1e-4, 20, 256, 0.9, (12, 16), 0.2, *grid) == SEMI_10PERCENT


def naive(lr: float, multiplier: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Explicit SGD with momentum in float64: two layers with their own learning rates, weight decay on everything."""
    model = make_model()
    head = 0.01 * torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
    weights = [model.weight, model.bias, head, torch.zeros(2)]  # type: ignore[list-item]
    weights = [w.detach().double().clone().requires_grad_() for w in weights]
    velocity = [torch.zeros_like(w) for w in weights]
    for epoch, factor in enumerate((1, 1, 0.2, 0.04)):
        for x, y in batches(epoch, seed):
            a, b, c, d = weights
            loss = F.cross_entropy((x.double() @ a.T + b) @ c.T + d, y // 10)
            gradients = torch.autograd.grad(loss, weights)
            for w, v, g, m in zip(weights, velocity, gradients, (1, 1, multiplier, multiplier), strict=True):
                v.mul_(0.9).add_(g + 5e-4 * w.detach())
                with torch.no_grad():
                    w -= lr * m * factor * v
    return tuple(w.detach() for w in weights)  # type: ignore[return-value]


def test_every_cell_is_the_naive_loop() -> None:
    networks: list[nn.Module] = []

    def remembered() -> nn.Module:
        networks.append(make_model())
        return networks[-1]

    tuned = FineTune(remembered, dim=3, classes=[0, 10], protocol=SMALL, seeds=(0, 1)).fit(batches, lambda: [VAL])
    cells = tuned.cells_
    assert [(c.lr, c.head_multiplier, c.seed) for c in cells] == [
        (lr, m, s) for lr in (0.1, 1e-5) for m in (1.0, 10.0) for s in (0, 1)
    ]
    for cell, model in zip(cells, networks, strict=True):
        a, b, c, d = naive(cell.lr, cell.head_multiplier, cell.seed)
        torch.testing.assert_close(model.weight.double(), a, rtol=1e-4, atol=1e-5)  # type: ignore[operator]
        right = ((VAL[0].double() @ a.T + b) @ c.T + d).argmax(1) == VAL[1] // 10
        assert cell.top1 == pytest.approx(float(right.double().mean()))
        assert cell.top5 == 1
        assert cell.holdout_top1 is None
    assert tuned.chosen_ is None


def test_best_on_val_and_the_honest_choice() -> None:
    top1 = {(0.1, 1.0): (0.5, 0.7), (0.1, 10.0): (0.9, 0.8), (1e-5, 1.0): (0.1, 0.2), (1e-5, 10.0): (0.6, 0.4)}
    held = {(0.1, 1.0): 0.3, (0.1, 10.0): 0.2, (1e-5, 1.0): 0.1, (1e-5, 10.0): 0.3}
    done = [FineTuneCell(*c, s, top1[c][s], 1.0, held[c]) for c in top1 for s in (0, 1)]
    tuned = fine_tune((0, 1)).fit(batches, lambda: [VAL], lambda: [HELD], done=done)
    best = {"lr": 0.1, "head_multiplier": 10.0, "top1": 0.85, "top5": 1.0, "top1_sd": 0.005**0.5}
    assert tuned.best_on_val_ == pytest.approx(best)
    honest = {"lr": 0.1, "head_multiplier": 1.0, "top1": 0.6, "top5": 1.0, "top1_sd": 0.02**0.5}
    assert tuned.chosen_ == pytest.approx(honest)  # the first one on a tie
    row = {"top1": 0.85, "top5": 1.0, "top1_sd": 0.005**0.5, "holdout_top1": 0.2}
    assert tuned.results_["lr=0.1, head_multiplier=10"] == pytest.approx(row)
    assert len(tuned.results_) == 4


def test_an_interrupted_grid_goes_on() -> None:
    whole = fine_tune().fit(batches, lambda: [VAL], lambda: [HELD])
    saved: list[FineTuneCell] = []

    def save(cell: FineTuneCell) -> None:
        saved.append(cell)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune().fit(batches, lambda: [VAL], lambda: [HELD], after_cell=save)
    new: list[FineTuneCell] = []
    resumed = fine_tune().fit(batches, lambda: [VAL], lambda: [HELD], done=saved, after_cell=new.append)
    assert (resumed.cells_, resumed.results_, resumed.chosen_) == (whole.cells_, whole.results_, whole.chosen_)
    assert len(new) == 2


def test_a_diverged_cell_is_marked_and_wrong() -> None:
    tuned = fine_tune(protocol=replace(SMALL, lr=(1e20, 0.1), head_multiplier=(1.0,))).fit(batches, lambda: [VAL])
    assert [cell.diverged for cell in tuned.cells_] == [True, False]
    assert tuned.cells_[0].top1 == 0
    assert tuned.best_on_val_["lr"] == 0.1


def test_no_global_generator_and_precision_as_asked() -> None:
    before = torch.get_rng_state()
    models: list[nn.Module] = []

    def remembered() -> nn.Module:
        models.append(make_model())
        return models[-1]

    protocol = replace(SMALL, lr=(0.1,), head_multiplier=(10.0,))
    FineTune(remembered, dim=3, classes=[0, 10], protocol=protocol).fit(batches, lambda: [VAL])
    with torch.autocast("cpu", torch.bfloat16):
        FineTune(remembered, dim=3, classes=[0, 10], protocol=protocol).fit(batches, lambda: [VAL])
    FineTune(remembered, dim=3, classes=[0, 10], protocol=protocol, precision="bf16").fit(batches, lambda: [VAL])
    exact, surrounded, rough = (model.weight.detach() for model in models)
    assert torch.equal(exact, surrounded)  # type: ignore[arg-type]
    assert not torch.equal(exact, rough)  # type: ignore[arg-type]
    torch.testing.assert_close(exact, rough, atol=0.05, rtol=0.05)
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_norm_trains_and_scores_in_eval_mode() -> None:
    models: list[nn.Module] = []

    def with_norm() -> nn.Module:
        models.append(nn.Sequential(make_model(), nn.BatchNorm1d(3)))
        return models[-1].eval()

    protocol = replace(SMALL, lr=(0.1,), head_multiplier=(1.0,))
    FineTune(with_norm, dim=3, classes=[0, 10], protocol=protocol).fit(batches, lambda: [VAL])
    assert int(models[0][1].num_batches_tracked) == 4 * 3  # type: ignore[index]


def test_errors() -> None:
    with pytest.raises(ValueError, match="seeds"):
        fine_tune(()).fit(batches, lambda: [VAL])
    with pytest.raises(ValueError, match="precision"):
        FineTune(make_model, dim=3, classes=2, precision="16").fit(batches, lambda: [VAL])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to train on"):
        fine_tune().fit(lambda epoch, seed: [], lambda: [VAL])
    with pytest.raises(ValueError, match="evaluate on are empty"):
        fine_tune().fit(batches, lambda: [])
    with pytest.raises(ValueError, match="label 10 is not among"):
        FineTune(make_model, dim=3, classes=2, protocol=SMALL).fit(batches, lambda: [VAL])


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    fraction=st.floats(0.01, 1),
    at_least=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_subsets_are_stratified_seeded_and_nested(counts: list[int], fraction: float, at_least: int, seed: int) -> None:
    labels = torch.cat([torch.full((n,), 7 * c - 3) for c, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    wanted = {7 * c - 3: min(n, max(at_least, round(fraction * n))) for c, n in enumerate(counts)}
    if not sum(wanted.values()):
        with pytest.raises(ValueError, match="is none"):
            subset_indices(labels, fraction, seed, at_least=at_least)
        return
    chosen = subset_indices(labels, fraction, seed, at_least=at_least)
    assert {c: int((labels[chosen] == c).sum()) for c in wanted} == wanted
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert set(chosen.tolist()) <= set(subset_indices(labels, (1 + fraction) / 2, seed, at_least=at_least).tolist())


def test_subsets_of_other_seeds_differ() -> None:
    labels = torch.arange(1000) % 10
    assert not torch.equal(subset_indices(labels, 0.1, 0), subset_indices(labels, 0.1, 1))
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            subset_indices(labels, bad, 0)
    with pytest.raises(ValueError, match="integers"):
        subset_indices(labels[:, None], 0.1, 0)


def test_subset_lists(tmp_path: Path) -> None:
    path = tmp_path / "1percent.txt"
    path.write_text("n01440764/n01440764_10026.JPEG 0\n\na folder/b c.JPEG 999\n")
    assert read_subset_list(path) == (["n01440764/n01440764_10026.JPEG", "a folder/b c.JPEG"], [0, 999])
    path.write_text("n01440764/a.JPEG 0\nn01440764_10026.JPEG\n")
    with pytest.raises(ValueError, match="line 2: expected 'folder/file label', got 'n0144"):
        read_subset_list(path)
