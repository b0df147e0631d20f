"""What all probes share: scikit-learn's conventions, and NumPy arrays in place of tensors."""

import importlib.metadata
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import eval_probes as ep
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor

PROTOCOL = replace(ep.COSLR, epochs=2, batch=16)
MHEAD = replace(ep.IMAGENET_MHEAD, epochs=2, batch=16)
PROBES = {
    "knn": ep.KNNProbe(k=(3, 5)),
    "linear": ep.LinearProbe(PROTOCOL, lr=(0.1, 0.3), holdout=0.2),
    "multihead": ep.MultiHeadLinearProbe(MHEAD),
    "svm": ep.SVMProbe((1.0, 0.1)),
    "lowshot": ep.LowShotSVMProbe((1, 2), n_draws=2, costs=(1.0, 0.1)),
    "cluster": ep.ClusterProbe(3, n_init=2),
}


def samples(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(60) % 3
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(9))
    return centres[y] + torch.randn(60, 8, generator=g), 10 * y - 7


def of(name: str, x: Any) -> Any:
    return {"feature5": x, "avgpool": x[:, :4]} if name == "multihead" else x


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", PROBES)
def test_scikit_learn_clones_and_fits(name: str) -> None:
    probe: Any = clone(PROBES[name])
    x, y = samples(0)
    before = probe.get_params()
    assert probe.fit(of(name, x), y) is probe
    assert all(probe.get_params()[key] is value for key, value in before.items())
    parameters = list(inspect.signature(type(probe)).parameters.values())
    assert [p.kind for p in parameters[1:]] == [inspect.Parameter.KEYWORD_ONLY] * (len(parameters) - 1)
    for key in before:
        assert f"{key}=" in repr(probe)


@pytest.mark.parametrize("name", PROBES)
def test_score_is_one_of_the_figures_of_evaluate(name: str) -> None:
    probe: Any = clone(PROBES[name])
    (x, y), (xt, yt) = samples(0), samples(1)
    probe.fit(of(name, x), y)
    found, score = probe.evaluate(of(name, xt), yt), probe.score(of(name, xt), yt)
    assert isinstance(score, float)
    assert 0 <= score <= 1
    assert score in [value for scores in found.values() for value in scores.values()]
    assert all(type(v) is float for scores in found.values() for v in scores.values())
    predicted = probe.predict(of(name, xt))
    assert (predicted.shape, predicted.dtype) == (yt.shape, torch.int64)
    if name not in ("cluster", "lowshot"):
        assert score == float((predicted == yt).double().mean())


@pytest.mark.parametrize("name", PROBES)
def test_arrays_give_what_tensors_give(name: str) -> None:
    one: Any = clone(PROBES[name])
    two: Any = clone(PROBES[name])
    (x, y), (xt, yt) = samples(0), samples(1)
    one.fit(of(name, x), y)
    two.fit(of(name, x.numpy()), y.numpy())
    same(two.predict(of(name, xt.numpy())), one.predict(of(name, xt)))
    assert two.score(of(name, xt.numpy()), yt.numpy()) == one.score(of(name, xt), yt)
    same(two.evaluate(of(name, xt.numpy()), yt.numpy()), one.evaluate(of(name, xt), yt))


@pytest.mark.parametrize("name", PROBES)
def test_before_fit(name: str) -> None:
    probe: Any = clone(PROBES[name])
    x, y = samples(0)
    for call in (probe.predict, lambda x: probe.score(x, y), lambda x: probe.evaluate(x, y)):
        with pytest.raises(ep.NotFittedError, match="call fit"):
            call(of(name, x))
    assert not hasattr(probe, "coef_")
    assert not hasattr(probe, "last_")


def test_functions_take_arrays(tmp_path: Path) -> None:
    (x, y), (z, _) = samples(0), samples(1)
    labels = (y[:, None] == y.unique()).long()
    a, b, c, d = x.numpy(), y.numpy(), z.numpy(), labels.numpy()
    same(ep.nearest_neighbours(a, c, 3), ep.nearest_neighbours(x, z, 3))
    assert ep.rankme(a) == ep.rankme(x)
    assert ep.alignment(a, c) == ep.alignment(x, z)
    assert ep.uniformity(a) == ep.uniformity(x)
    assert ep.cluster_scores(b, b[::-1]) == ep.cluster_scores(y, y.flip(0))
    assert ep.average_precision(a[:, 0], d[:, 0]) == ep.average_precision(x[:, 0], labels[:, 0])
    same(tuple(ep.mean_average_precision(a[:, :3], d)), tuple(ep.mean_average_precision(x[:, :3], labels)))
    assert ep.bootstrap_interval(a[:, :3], d) == ep.bootstrap_interval(x[:, :3], labels)
    assert ep.bootstrap_interval(b > 0) == ep.bootstrap_interval(y > 0)
    same(ep.subset_indices(b, 0.5, 0), ep.subset_indices(y, 0.5, 0))
    maps = torch.randn(2, 3, 4, 4)
    same(ep.pool_taps({"feature5": maps.numpy()}, ["avgpool"]), ep.pool_taps({"feature5": maps}, ["avgpool"]))
    assert ep.features_key({"w": a}) == ep.features_key({"w": x})
    network = torch.nn.Linear(8, 2)
    same(tuple(ep.extract_features(network, [(a, b)])), tuple(ep.extract_features(network, [(x, y)])))
    np.save(tmp_path / "x.npy", a)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")  # read-only: torch would warn
    assert torch.equal(ep.KNNProbe(3).fit(mapped, b).predict(mapped), ep.KNNProbe(3).fit(x, y).predict(x))


def test_low_shot_predictions() -> None:
    x, y = samples(0)
    probe = ep.LowShotSVMProbe((1, 4), n_draws=3, costs=(1.0, 0.1)).fit(x, y)
    decisions = probe.decision_function(x, k=4, draw=2)
    assert torch.equal(probe.predict(x, k=4, draw=2), torch.tensor([-7, 3, 13])[decisions.argmax(1)])
    ap = [
        ep.mean_average_precision(probe.decision_function(x, k=4, draw=draw), (y[:, None] == y.unique()).long()).mean_ap
        for draw in range(3)
    ]
    assert probe.evaluate(x, y)["k=4"]["mean_ap"] == pytest.approx(sum(ap) / 3)
    several = ep.LowShotSVMProbe(1, n_draws=1, costs=(1.0,)).fit(x, (y[:, None] == y.unique()).long())
    assert torch.equal(several.predict(x), (several.decision_function(x) > 0).long())
    with pytest.raises(ValueError, match="draw below 3"):
        probe.predict(x, draw=3)


def test_long_arguments_are_short_in_the_repr() -> None:
    found = repr(ep.LinearProbe(classes=torch.arange(1000)))
    assert "classes=<tensor (1000,)>" in found
    assert "milestones=(60, 80)" in found
    assert repr(ep.KNNProbe(20)) == "KNNProbe(k=20, temperature=0.07)"
    assert "..." in repr(ep.SVMProbe())


def test_the_public_names() -> None:
    assert ep.__version__ == importlib.metadata.version("eval-probes")
    assert all(hasattr(ep, name) for name in ep.__all__)
