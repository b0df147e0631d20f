"""The low-shot protocol: the draws, each SVM against LinearSVC, and the two choices of the cost."""

import numpy as np
import pytest
import torch
from eval_probes import LowShotSVMProbe, average_precision
from sklearn.svm import LinearSVC

K, COSTS = (1, 4), (1.0, 100.0, 0.5**6)


def images(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    signal = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, 3, generator=g) < 0.3).long()
    x = (y.float() @ signal + torch.randn(n, 20, generator=g)).clamp(min=0)
    y[torch.rand(n, 3, generator=g) < 0.1] = -1
    return x, y


def normalised(x: torch.Tensor) -> np.ndarray:
    x = x.double()
    return (x / (x.norm(dim=1, keepdim=True) + 1e-5)).numpy()


def test_draws() -> None:
    _, y = images(200, 1)
    probe = LowShotSVMProbe(K, n_draws=2)
    drawn = {k: probe._draw(y, k) for k in K}
    for k, kept in drawn.items():
        for problem, rows in enumerate(kept):
            labels = y[rows, problem % 3]
            assert (int((labels == 1).sum()), int((labels == 0).sum())) == (k, 2 * k)
            assert len(labels) == 3 * k  # difficult ones are never drawn
        assert len({tuple(rows.tolist()) for rows in kept}) == 6  # every class and draw has its own rows
        assert torch.equal(kept, LowShotSVMProbe(k, n_draws=2)._draw(y, k))  # independent of the other k
        assert not torch.equal(kept, LowShotSVMProbe(k, n_draws=2, seed=1)._draw(y, k))


def test_scores_equal_one_linear_svc_a_problem() -> None:
    (x, y), (x_test, y_test) = images(200, 1), images(150, 2)
    probe = LowShotSVMProbe(K, n_draws=2, costs=COSTS).fit(x, y)
    scores, tables = probe.evaluate(x_test, y_test), probe._mean_ap(x_test, y_test, K)
    a, a_test = normalised(x), normalised(x_test)
    for k in K:
        kept = probe._draw(y, k).view(2, 3, 200)
        tested, validated = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))  # (draw, cost, class)
        for draw, i, c in np.ndindex(2, 3, 3):
            rows = kept[draw, c]
            target = np.where(y[rows, c] == 1, 1, -1)
            settings = {"class_weight": {1: 2, -1: 1}, "dual": True, "tol": 1e-6, "max_iter": 10**6}
            theirs = LinearSVC(C=COSTS[i], **settings).fit(a[rows], target)
            tested[draw, i, c] = average_precision(torch.from_numpy(theirs.decision_function(a_test)), y_test[:, c])
            outside = torch.from_numpy(theirs.decision_function(a[~rows]))
            validated[draw, i, c] = average_precision(outside, y[~rows, c])
        mean_ap = tested.mean(2)
        np.testing.assert_allclose(tables[k], mean_ap, atol=3e-3)
        np.testing.assert_allclose(probe.validation_ap_[k], validated.mean(2), atol=3e-3)
        reference, honest = scores[f"k={k}, best on test"], scores[f"k={k}"]
        for choice, by in ((reference, tested), (honest, validated)):
            best = int(by.mean((0, 2)).argmax())
            assert choice["cost"] == COSTS[best]
            at = mean_ap[:, best]
            expected = (at.mean(), at.min(), at.max(), at.std())
            found = tuple(choice[f"mean_ap{of}"] for of in ("", "_min", "_max", "_sd"))
            assert found == pytest.approx(expected, abs=3e-3)
        assert honest["mean_ap"] <= reference["mean_ap"]
        assert honest["cost"] == probe.costs_[k]
    assert probe.score(x_test, y_test) == scores["k=1"]["mean_ap"]


def test_test_labels_move_only_the_reference_choice() -> None:
    (x, y), (x_test, y_test) = images(200, 1), images(150, 2)
    probe = LowShotSVMProbe(4, n_draws=2, costs=COSTS).fit(x, y)
    shuffled = y_test[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
    assert probe.evaluate(x_test, shuffled)["k=4"]["cost"] == probe.evaluate(x_test, y_test)["k=4"]["cost"]


def test_class_ids_and_no_global_generator() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.tensor([10, 20, 30])[torch.randint(3, (90,), generator=g)]
    x = torch.randn(31, 8, generator=g)[y] + 0.2 * torch.randn(90, 8, generator=g)
    state = torch.random.get_rng_state()
    first, second = (LowShotSVMProbe((1, 2), n_draws=2).fit(x, y).evaluate(x, y) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == second
    assert first["k=2, best on test"]["mean_ap"] > 0.9


def test_errors() -> None:
    x, y = images(60, 1)
    with pytest.raises(ValueError, match="k and n_draws"):
        LowShotSVMProbe(0).fit(x, y)
    with pytest.raises(ValueError, match="costs"):
        LowShotSVMProbe(costs=(-1.0,)).fit(x, y)
    with pytest.raises(ValueError, match="fit"):
        LowShotSVMProbe().score(x, y)
    with pytest.raises(ValueError, match=r"class 0 has .* k = 50 needs 50 and 100: pass smaller k"):
        LowShotSVMProbe((1, 50)).fit(x, y)
    with pytest.raises(ValueError, match="at least 2 classes"):
        LowShotSVMProbe(1).fit(x, y[:, :1])
    probe = LowShotSVMProbe(1, n_draws=1, costs=(1.0,)).fit(x, y)
    with pytest.raises(ValueError, match="as in fit"):
        probe.score(x[:, :5], y)
