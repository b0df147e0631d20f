"""Public functions of sobel_resnet and eval_probes on the device: where results are, their dtypes, the CPU's values."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import eval_probes as ep
import pytest
import sobel_resnet
import torch
from pretend_cuda.parity import Cases, Put, on_cpu
from sobel_resnet import (
    FeatureMaps,
    LastStage,
    OdcNeck,
    Projector,
    ResNet,
    SobelFilter,
    export,
    load_backbone,
    save_backbone,
)
from torch import Tensor

pytestmark = pytest.mark.usefixtures("cuda")
networks, probes = Cases(sobel_resnet), Cases(ep)

N, D, C = 60, 16, 3
_generator = torch.Generator().manual_seed(0)
Y = torch.arange(N) % C
X = torch.randn(N, D, generator=_generator) + 2 * torch.randn(C, D, generator=_generator)[Y]
LABELS = torch.randint(-1, 2, (N, 2), generator=_generator)
PICTURES = torch.randn(6, 3, 16, 16, generator=_generator)
PROTOCOL = replace(ep.STEPLR, epochs=2, batch=16, lr=0.5, milestones=(1,))


def small(**options: Any) -> ResNet:
    return sobel_resnet.resnet18(stem="cifar", width=0.0625, seed=0, **options)


# ---- sobel_resnet ----


@networks.of("ResNet.forward", "ResNet.stages", "resnet18", "resnet34", "resnet50", "resnet101", "SobelFilter.forward")
def backbones(put: Put) -> Any:
    net = put(small(sobel=True))
    features = net([put(PICTURES), put(PICTURES[..., :12, :12])])
    features.square().sum().backward()
    gradients = [p.grad for p in net.parameters()]
    net.eval()
    return features, gradients, net.stages(put(PICTURES)), dict(net.state_dict()), put(SobelFilter())(put(PICTURES))


@networks.of("Projector.forward", "OdcNeck.forward")
def heads(put: Put) -> Any:
    return put(Projector(D, 8, 4))(put(X)), put(OdcNeck(D, 8, 4, dropout=0.0))(put(X))


@networks.of("FeatureMaps.forward", "FeatureMaps.stages", "LastStage.forward")
def maps(put: Put) -> Any:
    net = put(small()).eval()
    maps = FeatureMaps(net, ("feature4", "feature5")).eval()
    feature4, feature5 = maps(put(PICTURES))
    return feature4, feature5, LastStage(net).eval()(feature4), maps.stages(put(PICTURES))


@networks.of("export", "architecture_of", "save_backbone", "load_backbone")
def files(put: Put) -> Any:
    net = put(small())
    path = Path(_folder[0]) / "backbone.safetensors"
    save_backbone(net, path)
    loaded, report = load_backbone(path)
    tensors = dict(loaded.state_dict()), export(net, "timm")
    return on_cpu(tensors), report.matched, sobel_resnet.architecture_of(net)


_folder: list[Path] = []


@pytest.mark.parametrize("name", networks.calls)
def test_networks(name: str, tmp_path: Path) -> None:
    _folder[:] = [tmp_path]
    networks.check(name)


def test_every_function_of_sobel_resnet_has_a_case() -> None:
    assert networks.missing() == []


# ---- eval_probes ----


def shared(probe: str) -> list[str]:
    """Methods that the cases of all probes call, or that touch no tensor."""
    return [f"{probe}.{method}" for method in ("score", "evaluate", "get_params")]


@probes.of("extract_features", "pool_taps", "features_key")
@pytest.mark.filterwarnings("ignore:feature")
def extraction(put: Put) -> Any:
    net = put(small())
    device = next(net.parameters()).device
    batches = [(PICTURES[:4], torch.arange(4)), (PICTURES[4:], torch.arange(2))]
    here = ep.extract_features(net, batches)
    there = ep.extract_features(net, batches, storage_device=device, taps=["feature2", "feature5"], pool="adaptive")
    maps = ep.pool_taps(net.eval().stages(put(PICTURES)), ["avgpool"], "adaptive")
    return on_cpu((here.x, here.labels)), there.x, maps, ep.features_key(net.state_dict(), "a")


@probes.of("nearest_neighbours", "rankme", "alignment", "uniformity", "cluster_scores")
def figures(put: Put) -> Any:
    x, y = put(X), put(Y)
    neighbours = ep.nearest_neighbours(x[:9], x, 5), ep.nearest_neighbours(x[:9], X, 5)  # a bank on the CPU, too
    return neighbours, ep.rankme(x), ep.alignment(x, x.flip(0)), ep.uniformity(x), ep.cluster_scores(y, y.roll(1))


@probes.of("average_precision", "mean_average_precision", "bootstrap_interval")
def precision(put: Put) -> Any:
    scores, labels = put(X[:, :2].contiguous()), put(LABELS)
    return (
        ep.average_precision(scores[:, 0], labels[:, 0]),
        ep.mean_average_precision(scores, labels),
        ep.bootstrap_interval(scores, labels, n_resamples=20),
        ep.bootstrap_interval(scores[:, 0] > 0, n_resamples=20),
    )


@probes.of("subset_indices", "read_subset_list")
def subsets(put: Put) -> Any:
    return on_cpu(ep.subset_indices(put(Y), 0.2, 0).cpu())


@probes.of("KNNProbe.fit", "KNNProbe.predict", "KNNProbe.hits", "KNNProbe.evaluate_leave_one_out", *shared("KNNProbe"))
def knn(put: Put) -> Any:
    probe = ep.KNNProbe(k=(3, 5)).fit(put(X), put(Y))
    scores = probe.score(put(X), put(Y)), probe.evaluate(put(X), Y), probe.evaluate_leave_one_out()
    hits = {k: hit.cpu() for k, hit in probe.hits(put(X), put(Y)).items()}
    return probe.predict(put(X)), scores, on_cpu(hits)


@probes.of(
    *("LinearProbe.fit", "LinearProbe.predict", *shared("LinearProbe")),
    *("LinearProbe.fit_batches", "LinearProtocol.lr_factor"),
)
def linear(put: Put) -> Any:
    x, y = put(X), put(Y)
    probe = ep.LinearProbe(PROTOCOL, lr=(0.1, 0.5), holdout=0.2).fit(x, y, test=(x, y))
    device = x.device
    of_host_rows = ep.LinearProbe(PROTOCOL, device=device).fit(X, Y)
    lars = ep.LinearProbe(replace(PROTOCOL, optimizer="lars"), classes=C)
    lars.fit_batches(lambda epoch: [(x[:30], y[:30]), (x[30:], Y[30:])])
    found = probe.predict(x), probe.score(x, y), probe.evaluate(x, y), probe.last_, probe.best_on_test_, probe.chosen_
    found += tuple((each.coef_, each.intercept_) for each in (probe, lars, of_host_rows))
    return *found, on_cpu(of_host_rows.predict(X)), of_host_rows.score(X, Y)


@probes.of(
    *("MultiHeadLinearProbe.fit", "MultiHeadLinearProbe.predict", *shared("MultiHeadLinearProbe")),
    "MultiHeadLinearProbe.fit_batches",
)
def multihead(put: Put) -> Any:
    taps, y = {"feature5": put(X), "avgpool": put(X[:, :8].contiguous())}, put(Y)
    protocol = replace(ep.IMAGENET_MHEAD, epochs=2, batch=16)
    probe = ep.MultiHeadLinearProbe(protocol).fit(taps, y, test=(taps, y))
    batches = ep.MultiHeadLinearProbe(protocol, classes=C).fit_batches(lambda epoch: [(taps, y)])
    scores = probe.score(taps, y), probe.evaluate(taps, y), probe.last_, probe.best_on_test_
    return probe.predict(taps), probe.predict(taps, tap="feature5"), scores, batches.predict(taps)


@probes.of(
    *("SVMProbe.fit", "SVMProbe.predict", "SVMProbe.decision_function", "SVMProbe.average_precision"),
    *shared("SVMProbe"),
)
def svm(put: Put) -> Any:
    found: list[Any] = []
    for y in (Y, LABELS):
        probe = ep.SVMProbe(costs=(0.5, 2.0)).fit(put(X), put(y))
        scores = probe.score(put(X), put(y)), probe.evaluate(put(X), put(y)), probe.average_precision(put(X), put(y))
        found += [probe.decision_function(put(X)).float(), probe.predict(put(X)), scores]
    return found


@probes.of(
    *("LowShotSVMProbe.fit", "LowShotSVMProbe.predict", "LowShotSVMProbe.decision_function"),
    *shared("LowShotSVMProbe"),
)
def lowshot(put: Put) -> Any:
    probe = ep.LowShotSVMProbe(k=(1, 2), n_draws=2, costs=(0.5, 2.0)).fit(put(X), put(Y))
    scores = probe.score(put(X), put(Y)), probe.evaluate(put(X), put(Y))
    return probe.decision_function(put(X), k=2, draw=1), probe.predict(put(X)), *scores


@probes.of("ClusterProbe.fit", "ClusterProbe.predict", "ClusterProbe.fit_predict", *shared("ClusterProbe"))
def clusters(put: Put) -> Any:
    probe = ep.ClusterProbe(C, n_init=2).fit(put(X))
    scores = probe.score(put(X), put(Y)), probe.evaluate(put(X), put(Y))
    found = probe.centroids_, probe.assignments_, probe.inertia_, probe.predict(put(X)), probe.fit_predict(put(X))
    return *found, *scores


@probes.of("FineTune.fit", "FineTune.get_params")
def finetune(put: Put) -> Any:
    def batches(*_: int) -> list[tuple[Tensor, Tensor]]:
        return [(PICTURES, torch.arange(6) % C)]

    protocol = replace(ep.SEMI_1PERCENT, epochs=2, lr=(0.01,), head_multiplier=(1.0,))
    tuned = ep.FineTune(lambda: put(small()), dim=32, classes=C, protocol=protocol).fit(batches, batches, batches)
    return tuned.cells_, tuned.results_, tuned.best_on_val_, tuned.chosen_


@pytest.mark.parametrize("name", probes.calls)
def test_probes(name: str) -> None:
    probes.check(name, rtol=1e-4, atol=1e-5)


def test_every_function_of_eval_probes_has_a_case() -> None:
    assert probes.missing() == []
