"""ClusterProbe and cluster_scores against scikit-learn and brute force."""

import itertools

import numpy as np
import pytest
import torch
from eval_probes import ClusterProbe, cluster_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor


def directions(n: int, d: int = 8, k: int = 5, noise: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    centres = torch.randn(k, d, generator=torch.Generator().manual_seed(1))
    return (centres[y] + noise * torch.randn(n, d, generator=g)) * (0.1 + torch.rand(n, 1, generator=g)), y


def brute_force_accuracy(a: Tensor, y: Tensor) -> float:
    """Try all one-to-one maps of clusters to classes; None pads the classes if there are more clusters."""
    clusters, classes = a.unique().tolist(), y.unique().tolist()
    classes += [None] * max(0, len(clusters) - len(classes))
    return max(
        sum(named[c] == t for c, t in zip(a.tolist(), y.tolist(), strict=True)) / len(y)
        for names in itertools.permutations(classes, len(clusters))
        for named in [dict(zip(clusters, names, strict=True))]
    )


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 5), n_classes=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_equal_to_scikit_learn_and_brute_force(n: int, k: int, n_classes: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a = 3 * torch.randint(0, k, (n,), generator=g) - 4
    y = 1000 - 7 * torch.randint(0, n_classes, (n,), generator=g)
    found = cluster_scores(a, y)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(y, a), abs=1e-9)
    assert found["ari"] == pytest.approx(adjusted_rand_score(y, a), abs=1e-9)
    assert found["accuracy"] == pytest.approx(brute_force_accuracy(a, y))
    purity = sum(np.bincount((1000 - y[a == c]).numpy()).max() for c in a.unique()) / n
    assert found["purity"] == pytest.approx(purity)


def test_limits() -> None:
    y = torch.arange(12) % 4
    assert cluster_scores(y, y) == pytest.approx({"nmi": 1, "ari": 1, "accuracy": 1, "purity": 1})
    assert cluster_scores((y + 1) % 4, y) == pytest.approx({"nmi": 1, "ari": 1, "accuracy": 1, "purity": 1})
    apart = {"nmi": 2 * np.log(4) / (np.log(4) + np.log(12)), "ari": 0, "accuracy": 1 / 3, "purity": 1}
    assert cluster_scores(torch.arange(12), y) == pytest.approx(apart)
    assert cluster_scores(0 * y, y) == pytest.approx({"nmi": 0, "ari": 0, "accuracy": 1 / 4, "purity": 1 / 4})
    assert cluster_scores(0 * y, 0 * y) == pytest.approx({"nmi": 1, "ari": 1, "accuracy": 1, "purity": 1})
    assert cluster_scores(y[:1], y[:1]) == pytest.approx({"nmi": 1, "ari": 1, "accuracy": 1, "purity": 1})


def test_lloyd_ends_where_scikit_learn_does_from_the_same_start() -> None:
    from eval_probes import _cluster

    x, _ = directions(300, noise=0.8)
    unit = torch.nn.functional.normalize(x, dim=1)
    start = _cluster._spread(unit, 5, [0, 0])
    inertia, centroids, assignments = _cluster._lloyd(unit, 5, [0, 0], 300)
    oracle = KMeans(5, init=start.double().numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd")
    oracle.fit(unit.double().numpy())
    assert assignments.tolist() == oracle.labels_.tolist()
    assert inertia == pytest.approx(oracle.inertia_, rel=1e-5)
    np.testing.assert_allclose(centroids, oracle.cluster_centers_, atol=1e-5)


def test_k_means_plus_plus_draws_by_squared_distance() -> None:
    """Points 0, 1 and 3 on a line: over many draws of two, P(second = j | first = i) = d_ij^2 / sum."""
    from eval_probes import _cluster

    x = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [tuple(_cluster._spread(x, 2, [seed]).flatten().tolist()) for seed in range(1500)]
    first = pairs.count((0.0, 1.0)) + pairs.count((0.0, 3.0))
    assert first / 1500 == pytest.approx(1 / 3, abs=0.05)  # four standard deviations
    assert pairs.count((0.0, 3.0)) / first == pytest.approx(0.9, abs=0.055)
    assert all(a != b for a, b in pairs)


def test_finds_directions_whatever_the_length_of_rows() -> None:
    x, y = directions(400)
    probe = ClusterProbe(5).fit(x)
    assert probe.evaluate(x, y)["k=5"]["nmi"] > 0.95
    assert probe.score(x, y) == probe.evaluate(x, y)["k=5"]["accuracy"]
    assert torch.equal(ClusterProbe(5).fit_predict(x), probe.assignments_)
    assert torch.equal(probe.predict(x), probe.assignments_)
    assert torch.equal(ClusterProbe(5).fit(7 * x.double()).assignments_, probe.assignments_)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ClusterProbe(5).fit(x).assignments_, probe.assignments_)
    more = ClusterProbe(5, n_init=10).fit(x)
    assert more.inertia_ <= probe.inertia_


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = directions(200)
    whole = ClusterProbe(5, n_init=1).fit(x)
    monkeypatch.setattr("eval_probes._cluster._SCORES", 35)
    monkeypatch.setattr("eval_probes._cluster._ROWS", 9)
    parts = ClusterProbe(5, n_init=1).fit(x)
    assert torch.equal(whole.assignments_, parts.assignments_)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 12), n_points=st.integers(1, 12), k=st.integers(1, 12), seed=st.integers(0, 99))
def test_repeated_points_leave_finite_centroids(n: int, n_points: int, k: int, seed: int) -> None:
    x = torch.randn(n_points, 3, generator=torch.Generator().manual_seed(seed))[torch.arange(n) % n_points]
    if k > n:
        with pytest.raises(ValueError, match="use k <="):
            ClusterProbe(k).fit(x)
        return
    probe = ClusterProbe(k, n_init=2).fit(x)
    assert probe.centroids_.isfinite().all()
    assert len(probe.assignments_.unique()) == min(k, n, n_points)


def test_a_cluster_that_runs_empty_takes_the_farthest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.nn.functional.normalize(directions(60)[0].abs(), dim=1)  # close together
    far = torch.cat([x[:2], torch.full((2, 8), 1e3)])  # the last two attract no row
    monkeypatch.setattr("eval_probes._cluster._spread", lambda *_: far)
    probe = ClusterProbe(4, n_init=1).fit(x)
    assert len(probe.assignments_.unique()) == 4


def test_errors() -> None:
    x, y = directions(30)
    with pytest.raises(ValueError, match="at least 1"):
        ClusterProbe(0).fit(x)
    with pytest.raises(ValueError, match="call fit"):
        ClusterProbe(2).predict(x)
    with pytest.raises(ValueError, match="one per row"):
        cluster_scores(y, y[:3])
    with pytest.raises(ValueError, match="assignments must be"):
        cluster_scores(y[:0], y[:0])
    with pytest.raises(ValueError, match=r"2 samples are unassigned \(-100\)"):
        cluster_scores(torch.tensor([-100, 1, -100]), y[:3])
    x[3] = torch.nan
    with pytest.raises(ValueError, match=r"1 rows with NaN or infinity, the first at \[3\]"):
        ClusterProbe(2).fit(x)
