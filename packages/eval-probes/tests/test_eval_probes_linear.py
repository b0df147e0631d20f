"""LinearProbe against naive float64 loops and scikit-learn, and how results are chosen."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from eval_probes import COSLR, LARS, STEPLR, SWAV_EVAL, Features, LinearProbe, LinearProtocol, subset_indices
from eval_probes._accuracy import top_hits
from eval_probes._linear_train import epoch_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor


def blobs(n: int, d: int = 6, n_classes: int = 3, seed: int = 0, noise: float = 1.5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_classes, d, generator=torch.Generator().manual_seed(99))
    y = torch.randint(0, n_classes, (n,), generator=g)
    return centres[y] + noise * torch.randn(n, d, generator=g), y


def test_presets_are_the_published_protocols() -> None:
    assert LinearProtocol(100, 30.0, 256, 0.9, 0.0, False, "sgd", (60, 80), 0.1) == STEPLR
    assert LinearProtocol(100, 0.3, 256, 0.9, 1e-6, False, "sgd", None) == COSLR == SWAV_EVAL
    assert LinearProtocol(90, 1.6, 4096, 0.9, 0.0, False, "lars", None) == LARS
    factors = [STEPLR.lr_factor(epoch) for epoch in (0, 59, 60, 79, 80, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert COSLR.lr_factor(0) == 1
    assert COSLR.lr_factor(50) == pytest.approx(0.5)
    assert COSLR.lr_factor(99) == pytest.approx((1 + math.cos(0.99 * math.pi)) / 2)


def naive(p: LinearProtocol, x: Tensor, y: Tensor, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Train weight and bias by torch.optim.SGD, or explicit LARS, on float64 gradients of autograd."""
    w = (0.01 * torch.randn(n_classes, x.shape[1], generator=torch.Generator().manual_seed(seed))).double()
    w, b = w.requires_grad_(), torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([w, b], p.lr, p.momentum, weight_decay=p.weight_decay, nesterov=p.nesterov)
    velocity = [torch.zeros_like(w), torch.zeros_like(b)]
    for epoch in range(p.epochs):
        lr = p.lr * p.lr_factor(epoch)
        sgd.param_groups[0]["lr"] = lr
        for rows in epoch_batches(len(x), p.batch, seed, epoch):
            sgd.zero_grad()
            F.cross_entropy(x[rows].double() @ w.T + b, y[rows]).backward()
            if p.optimizer == "sgd":
                sgd.step()
                continue
            for a, v in zip((w, b), velocity, strict=True):
                size, slope = float(a.detach().norm()), float(a.grad.norm())  # type: ignore[union-attr]
                trust = 0.001 * size / (slope + p.weight_decay * size + 1e-8) if size and slope else 1.0
                with torch.no_grad():
                    v.mul_(p.momentum).add_(trust * lr * (a.grad + p.weight_decay * a))
                    a -= v
    return w.detach(), b.detach()


@pytest.mark.parametrize(
    "protocol",
    [
        replace(STEPLR, epochs=4, batch=32, milestones=(1, 3)),
        replace(COSLR, epochs=4, batch=32, weight_decay=1e-2),
        replace(COSLR, epochs=3, batch=32, nesterov=True),
        replace(LARS, epochs=4, batch=64, lr=160.0),
        replace(LARS, epochs=4, batch=64, lr=160.0, weight_decay=1e-2),
        replace(SWAV_EVAL, epochs=12),
    ],
    ids=["steplr", "coslr", "nesterov", "lars", "lars with decay", "swav"],
)
def test_equal_to_the_naive_loop(protocol: LinearProtocol) -> None:
    x, y = blobs(100)
    probe = LinearProbe(protocol, seed=3).fit(x, y)
    w, b = naive(protocol, x, y, 3, 3)
    heads = probe._fitted()
    # 1e-4, since a learning rate of 30 amplifies float32 rounding
    torch.testing.assert_close(heads.weight[0].double(), w, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(heads.bias[0].double(), b, rtol=1e-4, atol=1e-4)
    assert torch.equal(probe.coef_, heads.weight[0])
    assert torch.equal(probe.intercept_, heads.bias[0])
    assert torch.equal(probe.predict(x), (x.double() @ w.T + b).argmax(1))


def test_a_long_training_reaches_the_optimum_of_scikit_learn() -> None:
    x, y = blobs(200)
    decay = 1e-2
    protocol = LinearProtocol(epochs=150, lr=1.0, batch=200, weight_decay=decay)
    heads = LinearProbe(protocol).fit(x, y)._fitted()
    heads_loss = float(F.cross_entropy(heads.logits(x)[:, 0], y) + decay / 2 * heads.weight.square().sum())
    # Our bias has weight decay, the oracle's has none: replace its bias by a column of ones.
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double().numpy()
    oracle = LogisticRegression(C=1 / (decay * len(x)), fit_intercept=False, tol=1e-10, max_iter=1000).fit(
        ones, y.numpy()
    )
    z = torch.from_numpy(ones @ oracle.coef_.T)
    oracle_loss = float(F.cross_entropy(z, y) + decay / 2 * np.square(oracle.coef_).sum())
    heads_loss += decay / 2 * float(heads.bias.square().sum())
    assert heads_loss == pytest.approx(oracle_loss, abs=1e-6)


@pytest.mark.parametrize("protocol", [COSLR, LARS])
def test_a_grid_gives_what_each_rate_gives_alone(protocol: LinearProtocol) -> None:
    x, y = blobs(80)
    protocol, grid = replace(protocol, epochs=5), (0.03, 0.3, 3.0)
    together = LinearProbe(protocol, lr=grid).fit(x, y, test=blobs(50, seed=1))
    for i, lr in enumerate(grid):
        alone = LinearProbe(protocol, lr=lr).fit(x, y, test=blobs(50, seed=1))
        torch.testing.assert_close(together._fitted().weight[i], alone._fitted().weight[0])
        assert together.last_[f"lr={lr:g}"] == alone.last_[f"lr={lr:g}"]
        assert together.best_on_test_[f"lr={lr:g}"] == alone.best_on_test_[f"lr={lr:g}"]
        assert torch.equal(together.predict(x, lr=lr), alone.predict(x))


def test_report_is_of_the_recorded_epochs() -> None:
    x, y = blobs(60, n_classes=9, noise=1.0)
    test = blobs(200, n_classes=9, noise=1.0, seed=1)
    by_epoch: list[dict[str, dict[str, float]]] = []
    probe = LinearProbe(replace(STEPLR, epochs=6, batch=16), lr=(0.01, 30.0))
    probe.fit(x, y, test=test, after_epoch=lambda state: by_epoch.append(probe.evaluate(*test)))
    assert len(by_epoch) == 6
    assert probe.last_ == by_epoch[-1]
    assert probe.best_on_test_["lr=0.01"]["epoch"] != 1  # so that the best epoch is not trivial
    for lr in ("lr=0.01", "lr=30"):
        top1 = [scores[lr]["top1"] for scores in by_epoch]
        first_best = top1.index(max(top1))
        assert probe.best_on_test_[lr] == {"epoch": first_best + 1, **by_epoch[first_best][lr]}
    assert probe.chosen_ is None


def test_held_out_samples_choose_and_are_not_trained_on() -> None:
    x, y = blobs(100)
    test = blobs(300, seed=1)
    protocol, grid = replace(COSLR, epochs=5), (1e-4, 0.3, 30.0)
    probe = LinearProbe(protocol, lr=grid, holdout=0.3, seed=5).fit(x, y, test=test)
    held = subset_indices(y, 0.3, 5, at_least=0)
    rest = ~torch.isin(torch.arange(100), held)
    seen: list[tuple[float, int, float, Tensor, dict[str, float]]] = []
    alone = LinearProbe(protocol, lr=grid, seed=5)

    def look(state: object) -> None:
        for lr in grid:
            held_top1 = alone.evaluate(x[held], y[held])[f"lr={lr:g}"]["top1"]
            scores = alone.evaluate(*test)[f"lr={lr:g}"]
            seen.append((lr, len(seen) // 3 + 1, held_top1, alone.predict(test[0], lr=lr), scores))

    alone.fit(x[rest], y[rest], after_epoch=look)
    torch.testing.assert_close(probe._fitted().weight, alone._fitted().weight)
    lr, epoch, held_top1, predicted, scored = max(seen, key=lambda s: s[2])  # max returns the first one on a tie
    assert probe.chosen_ == {"lr": lr, "epoch": epoch, "holdout_top1": held_top1, **scored}
    assert probe.evaluate(*test)["chosen"] == scored
    assert probe.score(*test) == scored["top1"]
    assert torch.equal(probe.predict(test[0]), predicted)


def test_the_first_of_equal_choices_is_kept() -> None:
    x, y = blobs(100, noise=0.01)
    probe = LinearProbe(replace(COSLR, epochs=3), lr=(1.0, 0.3), holdout=0.2).fit(x, y, test=(x, y))
    assert probe.chosen_ == {"lr": 1.0, "epoch": 1, "holdout_top1": 1.0, "top1": 1.0, "top5": 1.0}
    assert probe.history_["holdout"][-1, 0, 0] == 1


def test_fit_batches_is_fit_on_the_same_batches() -> None:
    x, y = blobs(70)
    protocol = replace(COSLR, epochs=4, batch=32)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in epoch_batches(len(x), 32, 0, epoch):
            yield x[rows], y[rows]

    fitted = LinearProbe(protocol).fit(x, y)
    held = blobs(40, seed=2)
    streamed = LinearProbe(protocol, classes=3).fit_batches(batches, test=blobs(50, seed=1), holdout=held)
    assert torch.equal(fitted._fitted().weight, streamed._fitted().weight)
    assert streamed.chosen_ is not None
    assert streamed.chosen_["holdout_top1"] == pytest.approx((streamed.predict(held[0]) == held[1]).double().mean())
    fresh = LinearProbe(protocol, classes=3).fit_batches(lambda e: ((a + 0.1 * e, b) for a, b in batches(e)))
    assert not torch.allclose(fitted._fitted().weight, fresh._fitted().weight)


def test_resume_from_a_saved_state_is_no_interruption(tmp_path: Path) -> None:
    x, y = blobs(70)
    test = blobs(50, seed=1)
    settings_ = {"protocol": replace(STEPLR, epochs=5, batch=32), "lr": (0.3, 30.0), "holdout": 0.2}
    whole = LinearProbe(**settings_).fit(x, y, test=test)  # type: ignore[arg-type]

    def stop(state: dict[str, object]) -> None:
        torch.save(state, tmp_path / "state.pt")
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LinearProbe(**settings_).fit(x, y, test=test, after_epoch=stop)  # type: ignore[arg-type]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = LinearProbe(**settings_).fit(x, y, test=test, resume=state)  # type: ignore[arg-type]
    assert torch.equal(resumed._fitted().weight, whole._fitted().weight)
    assert (resumed.last_, resumed.best_on_test_, resumed.chosen_) == (whole.last_, whole.best_on_test_, whole.chosen_)
    with pytest.raises(ValueError, match="another lr"):
        LinearProbe(lr=0.3).fit(x, y, resume=state)
    with pytest.raises(ValueError, match="history"):
        LinearProbe(**settings_).fit(x, y, resume=state)  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), batch=st.integers(1, 12), n_classes=st.integers(1, 4), seed=st.integers(0, 99))
def test_any_size_and_any_labels(n: int, batch: int, n_classes: int, seed: int) -> None:
    x, y = blobs(n, n_classes=n_classes, seed=seed)
    names = torch.tensor([-7, 4, 90, 1000])
    probe = LinearProbe(replace(COSLR, epochs=2, batch=batch), seed=seed)
    predicted = probe.fit(x, names[y]).predict(x)
    plain = LinearProbe(probe.protocol, seed=seed).fit(x, y).predict(x)
    assert torch.equal(predicted, names[plain])
    assert probe.score(x, names[y]) == float((plain == y).double().mean())
    assert probe.evaluate(x, torch.full((n,), 5)) == {
        "lr=0.3": {"top1": 0, "top5": 0}
    }  # a label unknown to the train set is never right


def test_one_class() -> None:
    probe = LinearProbe(replace(STEPLR, epochs=1)).fit(torch.ones(3, 2), torch.full((3,), 8))
    assert probe.evaluate(torch.ones(1, 2), torch.tensor([8])) == {"lr=30": {"top1": 1.0, "top5": 1.0}}


def test_a_memory_map_of_halves_and_a_surrounding_autocast(tmp_path: Path) -> None:
    x, y = blobs(60)
    np.save(tmp_path / "x.npy", x.half().numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    expected = LinearProbe(replace(COSLR, epochs=2)).fit(x.half().float(), y)._fitted().weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LinearProbe(replace(COSLR, epochs=2)).fit(mapped, y)._fitted().weight, expected)


def test_a_diverged_classifier_is_wrong_and_spares_the_others() -> None:
    x, y = blobs(60)
    probe = LinearProbe(replace(COSLR, epochs=3), lr=(0.3, 1e38)).fit(1e3 * x, y, test=(1e3 * x, y))
    assert not probe._fitted().weight[1].isfinite().all()
    assert probe.last_["lr=1e+38"]["top1"] == 0
    assert probe.last_["lr=0.3"]["top1"] > 0.5


def test_top_hits_rank_ties_and_not_numbers() -> None:
    scores = torch.zeros(4, 1, 7)
    scores[2, 0, 3] = torch.nan
    true = torch.tensor([0, 4, 3, -1])
    assert top_hits(scores, true).tolist() == [
        [1, 2]
    ]  # class 0 ranks first and class 4 fifth; NaN and unknown labels never hit


def test_every_sample_once_an_epoch_and_no_batch_of_one() -> None:
    for n, batch in ((1, 4), (4, 4), (9, 4), (10, 4), (5, 1)):
        parts = list(epoch_batches(n, batch, 0, 1))
        assert sorted(torch.cat(parts).tolist()) == list(range(n))
        assert min(map(len, parts)) > 1 or n == 1 or batch == 1
    orders = {tuple(torch.cat(list(epoch_batches(30, 7, seed, epoch))).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_errors() -> None:
    x, y = blobs(20)
    with pytest.raises(ValueError, match="call fit"):
        LinearProbe().predict(x)
    with pytest.raises(ValueError, match="pass test="):
        _ = LinearProbe(replace(COSLR, epochs=1)).fit(x, y).last_
    with pytest.raises(ValueError, match="lr must be one of"):
        LinearProbe(replace(COSLR, epochs=1)).fit(x, y).predict(x, lr=7.0)
    for lr in ((), (0.1, 0.1), -1.0):
        with pytest.raises(ValueError, match="different positive"):
            LinearProbe(lr=lr).fit(x, y)
    with pytest.raises(ValueError, match="holdout must be"):
        LinearProbe(holdout=0.9).fit(x, y)
    with pytest.raises(ValueError, match="classes must be given"):
        LinearProbe().fit_batches(lambda epoch: [(x, y)])
    with pytest.raises(ValueError, match="is for fit"):
        LinearProbe(classes=3, holdout=0.1).fit_batches(lambda epoch: [(x, y)])
    with pytest.raises(ValueError, match="nothing to train on"):
        LinearProbe(classes=3).fit_batches(lambda epoch: [])
    with pytest.raises(ValueError, match="label 2 is not among the 2 classes"):
        LinearProbe(classes=2).fit(x, y)
    with pytest.raises(ValueError, match="test has no labels"):
        LinearProbe().fit(x, y, test=Features(x, None))
    with pytest.raises(ValueError, match="one per row"):
        LinearProbe().fit(x, y[:3])
    with pytest.raises(ValueError, match="is none"):
        LinearProbe(holdout=0.1).fit(x[:2], torch.tensor([0, 1]))
    x[[4, 9]] = torch.nan
    with pytest.raises(ValueError, match=r"x has 2 rows with NaN or infinity, the first at \[4, 9\]"):
        LinearProbe().fit(x, y)
