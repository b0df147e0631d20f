"""The SVM probe: solver and folds against scikit-learn, the protocol's constants, and errors."""

import warnings

import numpy as np
import pytest
import torch
from eval_probes import VISSL_COSTS, VOC07_COSTS, SVMProbe, average_precision
from eval_probes import _svm as svm
from eval_probes._svm_solver import rotate, solve
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC


def images(n: int, dim: int, n_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rectified features with a strong common mean, and several labels per image, some difficult."""
    world = torch.Generator().manual_seed(0)
    signal = torch.randn(n_classes, dim, generator=world)
    g = torch.Generator().manual_seed(seed)
    present = torch.rand(n, n_classes, generator=g) < 0.25
    x = (0.4 * present.float() @ signal + torch.randn(n, dim, generator=g) + 0.5).clamp(min=0)
    y = present.long()
    y[torch.rand(n, n_classes, generator=g) < 0.05] = -1
    return x, y


def oracle(x: np.ndarray, target: np.ndarray, cost: float, **more: float) -> LinearSVC:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an oracle must converge
        settings = {"class_weight": {1: 2, -1: 1}, "dual": True, "random_state": 0, "tol": 1e-6, "max_iter": 10**6}
        return LinearSVC(C=cost, **(settings | more)).fit(x, target)


def normalised(x: torch.Tensor) -> np.ndarray:
    a = x.double().numpy()
    return a / (np.sqrt((a**2).sum(1, keepdims=True)) + 1e-5)


def objective(x: np.ndarray, target: np.ndarray, cost: float, coef: np.ndarray, intercept: float) -> float:
    """Evaluate the objective row by row in float64."""
    total = 0.5 * (coef @ coef + intercept**2)
    for row, sign in zip(x, target, strict=True):
        total += cost * (2 if sign == 1 else 1) * max(0.0, 1 - sign * (row @ coef + intercept)) ** 2
    return float(total)


def test_constants() -> None:
    assert VOC07_COSTS[:3] == (1, 10, 100)
    assert VOC07_COSTS[3:] == tuple(1 / 2**i for i in range(4, 20))
    assert VISSL_COSTS == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    probe = SVMProbe()
    assert (probe.costs, probe.positive_weight, probe.n_folds) == (VOC07_COSTS, 2, 3)


@pytest.mark.parametrize(("n", "dim"), [(150, 40), (60, 200)])
@pytest.mark.parametrize("cost", [0.5**19, 0.5**8, 1.0, 100.0])
def test_solution_equals_linear_svc(n: int, dim: int, cost: float) -> None:
    """With more rows than dimensions, and with fewer; all classes in one batch."""
    x, y = images(n, dim, 3, 0)
    signs = (y.T == 1).float() * 2 - 1
    rows = rotate(svm.with_constant(x))
    weights = cost * torch.where(signs > 0, 2.0, 1.0)
    found = solve(rows, signs, weights, torch.zeros(3, rows.z.shape[1]))
    assert found.proven.all()
    a = normalised(x)
    for c in range(3):
        target = signs[c].numpy()
        theirs = oracle(a, target, cost)
        best = objective(a, target, cost, theirs.coef_[0], float(theirs.intercept_[0]))
        w = (rows.basis @ found.u[c].double()).numpy()
        ours = objective(a, target, cost, w[:-1], w[-1])
        assert ours == pytest.approx(best, rel=1e-5)
        assert ours - float(found.gap[c]) <= best * (1 + 1e-6)  # the proven bound holds
        assert float(found.objective[c]) == pytest.approx(ours, rel=1e-5)
        decisions = a @ w[:-1] + w[-1]
        np.testing.assert_allclose(decisions, theirs.decision_function(a), atol=2e-3, rtol=2e-3)


def test_batching_and_start_change_nothing_beyond_the_tolerance() -> None:
    x, y = images(120, 30, 4, 0)
    rows = rotate(svm.with_constant(x))
    signs = (y.T == 1).float() * 2 - 1
    weights = torch.ones_like(signs)
    together = solve(rows, signs, weights, torch.zeros(4, 31), 1e-4).u
    alone = torch.cat(
        [solve(rows, s[None], w[None], torch.zeros(1, 31)).u for s, w in zip(signs, weights, strict=True)]
    )
    elsewhere = solve(rows, signs, weights, 5 * torch.ones(4, 31), 1e-4).u
    assert ((together - alone).norm(dim=1) <= 1.2e-3 * together.norm(dim=1)).all()
    assert ((together - elsewhere).norm(dim=1) <= 3e-4 * together.norm(dim=1)).all()


def test_weight_zero_leaves_a_row_out() -> None:
    x, y = images(90, 20, 1, 0)
    signs = (y.T == 1).float() * 2 - 1
    kept = torch.arange(90) % 3 > 0
    whole, part = rotate(svm.with_constant(x)), rotate(svm.with_constant(x[kept]))
    masked = solve(whole, signs, kept.float()[None], torch.zeros(1, 21), 1e-4).u.double() @ whole.basis.T
    removed = solve(part, signs[:, kept], torch.ones(1, 60), torch.zeros(1, 21), 1e-4).u.double() @ part.basis.T
    torch.testing.assert_close(masked, removed, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_folds_equal_scikit_learn(n_folds: int) -> None:
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        y = torch.rand(int(torch.randint(2 * n_folds, 60, (1,), generator=g)), generator=g) < 0.3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the rarer class may have fewer members than folds
            splits = list(StratifiedKFold(n_folds).split(np.zeros(len(y)), y.numpy()))
        ours = svm.stratified_folds(y, n_folds)
        for i, (_, held_out) in enumerate(splits):
            assert (ours == i).nonzero().flatten().tolist() == held_out.tolist()


def test_whole_protocol_equals_scikit_learn() -> None:
    (x, y), (x_test, y_test) = images(240, 50, 3, 1), images(200, 50, 3, 2)
    costs = (1.0, 10.0, 0.5**4, 0.5**10)
    probe = SVMProbe(costs).fit(x, y)
    scores, ap = probe.evaluate(x_test, y_test)["cv"], probe.average_precision(x_test, y_test)
    a, a_test = normalised(x), normalised(x_test)
    settings = {"class_weight": {1: 2, -1: 1}, "dual": True, "tol": 1e-6, "max_iter": 10**6}
    for c in range(3):
        target = np.where(y[:, c] == 1, 1, -1)  # difficult: trained as negative
        cv = [
            cross_val_score(LinearSVC(C=cost, **settings), a, target, cv=3, scoring="average_precision").mean()
            for cost in costs
        ]
        np.testing.assert_allclose(probe.cv_ap_[c], cv, atol=2e-3)  # one swap of near-equal scores is about 1e-3
        assert float(probe.costs_[c]) == costs[int(np.argmax(cv))]
        decisions = oracle(a, target, costs[int(np.argmax(cv))]).decision_function(a_test)
        np.testing.assert_allclose(probe.decision_function(x_test)[:, c], decisions, atol=2e-3)
        counted = y_test[:, c] >= 0  # difficult: not tested on
        expected = average_precision(torch.from_numpy(decisions)[counted], y_test[counted, c])
        assert float(ap[c]) == pytest.approx(expected, abs=2e-3)
    assert probe.score(x_test, y_test) == scores["mean_ap"] == pytest.approx(float(ap.mean()))
    assert scores["mean_ap_low"] < scores["mean_ap"] < scores["mean_ap_high"]
    assert "top1" not in scores
    assert torch.equal(probe.predict(x_test), (probe.decision_function(x_test) > 0).long())


def test_first_of_equal_costs_wins() -> None:
    x = torch.cat([torch.eye(6), torch.eye(6)])  # every cost ranks such data perfectly
    y = (torch.arange(12) % 6 < 2).long()[:, None]
    assert SVMProbe((1.0, 10.0, 0.5)).fit(x, y).costs_.tolist() == [1.0]
    assert SVMProbe((0.5, 10.0, 1.0)).fit(x, y).costs_.tolist() == [0.5]


def test_class_ids() -> None:
    """Class ids need not start at 0 or be dense; an id unknown to the train set is never right."""
    g = torch.Generator().manual_seed(0)
    ids = torch.tensor([-7, 3, 40])
    y = ids[torch.randint(3, (120,), generator=g)]
    x = (y[:, None] == ids).float() @ torch.randn(3, 10, generator=g) + 0.3 * torch.randn(120, 10, generator=g)
    probe = SVMProbe((1.0, 0.1)).fit(x[:80], y[:80])
    assert torch.equal(probe.classes_, ids)
    scores = probe.evaluate(x[80:], y[80:])["cv"]
    assert scores["top1"] == float((probe.predict(x[80:]) == y[80:]).double().mean()) > 0.9
    assert probe.score(x[80:], y[80:]) == scores["top1"]
    assert scores["top1_low"] <= scores["top1"] <= scores["top1_high"]
    unknown = x[80:], torch.where(y[80:] == 40, 41, y[80:])
    assert probe.average_precision(*unknown).isnan().tolist() == [False, False, True]
    assert probe.score(*unknown) < scores["top1"]


def test_nothing_is_random_and_no_global_generator_is_read() -> None:
    x, y = images(60, 10, 2, 0)
    state = torch.random.get_rng_state()
    first, second = (SVMProbe((1.0, 0.1)).fit(x, y) for _ in range(2))
    assert torch.equal(first.coef_, second.coef_)
    assert first.evaluate(x, y) == second.evaluate(x, y)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(90, 12, 3, 0)
    whole = SVMProbe((1.0, 0.1)).fit(x, y)
    monkeypatch.setattr(svm, "_BLOCK_FLOATS", 5 * 90)  # five of the twelve problems at a time
    blocked = SVMProbe((1.0, 0.1)).fit(x, y)
    torch.testing.assert_close(blocked.cv_ap_, whole.cv_ap_, rtol=0, atol=2e-3)
    torch.testing.assert_close(blocked.coef_, whole.coef_, rtol=2e-3, atol=2e-3)


def test_zero_rows_duplicates_and_tiny_sets() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[0], [0], [1], [1], [1], [0]])
    probe = SVMProbe().fit(x, y)
    assert probe.predict(x).tolist() == y.tolist()
    assert probe.score(x, y) == 1
    smallest = SVMProbe().fit(x[3:], y[3:] * torch.tensor([[1], [0], [0]]))
    assert smallest.cv_ap_.isnan().all()  # with one positive, no fold can train and test on it
    assert smallest.costs_.tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_any_float_dtype_and_surrounding_autocast(dtype: torch.dtype) -> None:
    x, y = images(60, 10, 2, 0)
    x = x.to(dtype)
    expected = SVMProbe((1.0,)).fit(x.double(), y).coef_
    with torch.autocast("cpu", torch.bfloat16):
        found = SVMProbe((1.0,)).fit(x, y).coef_
    torch.testing.assert_close(found, expected)


def test_unproven_problems_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(60, 10, 1, 0)
    monkeypatch.setattr("eval_probes._svm_solver._MAX_NEWTON", 1)
    with pytest.warns(UserWarning, match="not solved"):
        SVMProbe((100.0,)).fit(x, y)


def test_errors() -> None:
    x, y = images(30, 5, 2, 0)
    with pytest.raises(ValueError, match="fit"):
        SVMProbe().decision_function(x)
    with pytest.raises(ValueError, match="costs"):
        SVMProbe(()).fit(x, y)
    with pytest.raises(ValueError, match="costs"):
        SVMProbe((1.0, 0.0)).fit(x, y)
    with pytest.raises(ValueError, match="n_folds"):
        SVMProbe(n_folds=1).fit(x, y)
    with pytest.raises(ValueError, match=r"\(N,\) class ids"):
        SVMProbe().fit(x, y[:29, 0])
    with pytest.raises(ValueError, match="1 / 0 / -1"):
        SVMProbe().fit(x, y.float())
    with pytest.raises(ValueError, match="labels must be 1"):
        SVMProbe().fit(x, y + 3)
    with pytest.raises(ValueError, match="folds need"):
        SVMProbe().fit(x[:2], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"classes \[1\] have no positive or no negative"):
        SVMProbe().fit(x, torch.stack([y[:, 0], torch.zeros(30).long()], 1))
    with pytest.raises(ValueError, match=r"classes \[0\] have no positive or no negative"):
        SVMProbe().fit(x, torch.full((30,), 4))  # one class only
    bad = x.clone()
    bad[7, 1] = torch.nan
    with pytest.raises(ValueError, match=r"x has 1 rows with NaN or infinity, the first at \[7\]"):
        SVMProbe().fit(bad, y)
    probe = SVMProbe((1.0,)).fit(x, y)
    with pytest.raises(ValueError, match="as in fit"):
        probe.predict(x[:, :3])
    with pytest.raises(ValueError, match="2 columns"):
        probe.score(x, y[:, :1])
