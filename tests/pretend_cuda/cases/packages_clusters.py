"""Public functions of cluster_memory and sinkhorn on the device: where results are, their dtypes, the CPU's values."""

from typing import Any

import cluster_memory
import pytest
import sinkhorn
import torch
from cluster_memory import EpochBank, KMeans, OnlineClusters, PCAWhitening, balanced_indices, cluster_stats
from pretend_cuda.device import Device
from pretend_cuda.parity import Cases, Put, on_cpu
from sinkhorn import EmbeddingQueue, Prototypes, optimal_transport, sinkhorn_knopp, swapped_prediction_loss

pytestmark = pytest.mark.usefixtures("cuda")
memory, codes = Cases(cluster_memory), Cases(sinkhorn)

N, D, K = 120, 16, 6
_generator = torch.Generator().manual_seed(0)
Y = torch.arange(N) % K
X = torch.randn(N, D, generator=_generator) + 3 * torch.randn(K, D, generator=_generator)[Y]
SCORES = torch.randn(20, 9, generator=_generator) / 8


# ---- cluster_memory ----


def fitted(clusters: KMeans) -> dict[str, Any]:
    return {name: value for name, value in vars(clusters).items() if name.endswith("_")}


@memory.of(
    *("KMeans.fit", "KMeans.predict", "KMeans.transform", "KMeans.fit_predict", "KMeans.fit_transform"),
    "KMeans.get_params",
)
def kmeans(put: Put) -> Any:
    found: list[Any] = []
    for metric in ("euclidean", "cosine"):
        for init in ("random", "k-means++", put(X[:K].clone())):
            clusters = KMeans(K, metric=metric, n_iters=4, init=init, seed=1)
            found += [fitted(clusters.fit(put(X))), clusters.predict(put(X[:50])), clusters.transform(put(X[:9]))]
            found += [clusters.get_params()["init"], clusters.fit_predict(put(X)), clusters.fit_transform(put(X))]
    return found


@memory.of()
def kmeans_with_repairs(put: Put) -> Any:
    many = torch.cat([X[:1].expand(60, -1), X[:30]])  # most start at one point, and all of these but one become empty
    found = [KMeans(12, n_iters=3, empty=empty).fit(put(many)) for empty in ("split", "keep")]
    assert found[0].n_repaired_ > 0
    return [fitted(clusters) for clusters in found]


@memory.of("PCAWhitening.fit", "PCAWhitening.transform", "PCAWhitening.fit_transform", "PCAWhitening.get_params")
def whitening(put: Put) -> Any:
    pca = PCAWhitening(4).fit(put(X))
    # signs of components are anybody's
    return pca.transform(put(X)).abs(), PCAWhitening(4).fit_transform(put(X)).abs(), on_cpu(pca.get_params())


@memory.of("balanced_indices", "cluster_stats")
def statistics(put: Put) -> Any:
    indices = balanced_indices(put(Y), 50, 0)
    return on_cpu(indices.cpu()), cluster_stats(put(Y), K, previous=put(Y.roll(3)))


@memory.of(
    *("OnlineClusters.initialise", "OnlineClusters.update", "OnlineClusters.update_centroids"),
    *("OnlineClusters.split_small_clusters", "OnlineClusters.loss_weights", "OnlineClusters.assignments_of"),
)
def online(put: Put) -> Any:
    clusters = put(OnlineClusters(N, D, K, min_cluster=10))
    clusters.initialise(put(X), put(Y))
    found: list[Any] = []
    for step in range(70):  # the member lists are brought up to date in the 64th
        indices = (torch.arange(24) * 7 + step) % N
        found.append(clusters.update(put(indices), put(X[indices] + 2 * step % 5)))
        found.append(clusters.split_small_clusters())
    clusters.update_centroids()
    found += [clusters.loss_weights(), clusters.assignments_of(put(indices)), dict(clusters.state_dict())]
    resumed = put(OnlineClusters(N, D, K, min_cluster=10))
    resumed.load_state_dict(clusters.state_dict())
    return [*found, resumed.update(put(indices), put(X[indices])), resumed.centroids]


@memory.of("EpochBank.write", "EpochBank.cluster")
def bank(put: Put) -> Any:
    bank = put(EpochBank(N, D, 2))
    bank.write(put(torch.arange(N)), put(torch.stack([X, X.flip(0)])))
    labels, centroids = bank.cluster(K, 3, 4, seed=0, epoch=0)
    bank.write(torch.tensor([1, 2, 1]), torch.stack([X[:3], X[3:6]]))  # from the CPU, one image twice
    return labels, centroids, dict(bank.state_dict())


@pytest.mark.parametrize("name", memory.calls)
def test_memory(name: str) -> None:
    memory.check(name, rtol=1e-4, atol=1e-5)


def test_every_function_of_cluster_memory_has_a_case() -> None:
    assert memory.missing() == []


def test_clusterings_repeat(cuda: Device) -> None:
    """The same seed gives the same clusters on a GPU: no sum is in an order that its threads decide."""
    x = torch.cat([X[:1].expand(60, -1), X[:60]]).to("cuda")
    for k, options in ((K, {}), (30, {}), (K, {"init": "k-means++"}), (K, {"metric": "cosine"})):
        with cuda.watched() as log:
            KMeans(k, n_iters=3, **options).fit(x)
        assert log.unrepeatable == {}, f"{k} clusters, {options}: {[str(wait.place) for wait in log.unrepeatable]}"


def test_a_kernel_is_launched_where_its_tensors_are() -> None:
    x = X.to("cuda:1")
    assert KMeans(K, n_iters=2).fit(x).centroids_.device == x.device
    assert sinkhorn_knopp(SCORES.to("cuda:1")).device == x.device


# ---- sinkhorn ----


@codes.of("sinkhorn_knopp")
def sinkhorn_codes(put: Put) -> Any:
    return [
        sinkhorn_knopp(put(SCORES)),
        sinkhorn_knopp(put(SCORES), extra=put(SCORES[:7])),
        sinkhorn_knopp(put(SCORES.bfloat16().T.contiguous()).T),
        sinkhorn_knopp(put(SCORES.double()), epsilon=0.01),
    ]


@codes.of("optimal_transport")
def transport(put: Put) -> Any:
    marginals = {"row_marginals": put(torch.linspace(0.5, 1, 20)), "column_marginals": put(torch.linspace(0.5, 1, 9))}
    return [
        optimal_transport(put(SCORES)),
        optimal_transport(put(SCORES), n_iters=4, rho=1.0, **marginals),
        optimal_transport(put(SCORES), n_iters=5, tolerance=0.01),
        optimal_transport(put(SCORES.double()), n_iters=4, rho=1.0, tolerance=0.01, **marginals),
    ]


@codes.of(
    *("Prototypes.forward", "Prototypes.normalise_", "Prototypes.drop_frozen_gradients", "swapped_prediction_loss"),
    *("EmbeddingQueue.push", "EmbeddingQueue.valid", "EmbeddingQueue.local"),
)
def prototypes(put: Put) -> Any:
    heads = put(Prototypes(D, (5, 6), freeze_steps=1))
    heads.normalise_()
    queue = put(EmbeddingQueue(2, 30, D))
    filled = []
    for _ in range(2):
        queue.push(put(torch.stack([X[:20], X[20:40]])))
        filled += [queue.is_full, queue.valid(), queue.local()]
    scores = [heads(put(X[i : i + 20]))[0] for i in (0, 20, 40)]
    loss = swapped_prediction_loss(scores, [sinkhorn_knopp(part) for part in scores[:2]])
    loss.backward()
    heads.drop_frozen_gradients(1)
    gradients = [weight.grad for weight in heads.parameters() if weight.grad is not None]
    heads.drop_frozen_gradients(0)
    assert all(weight.grad is None for weight in heads.parameters())
    return filled, scores, loss, gradients


@codes.of("check_equipartition", "largest_k")
def numbers(put: Put) -> Any:
    return sinkhorn.check_equipartition(8, 8, 10), sinkhorn.largest_k(8)


@pytest.mark.parametrize("name", codes.calls)
def test_codes(name: str) -> None:
    codes.check(name, rtol=1e-4, atol=1e-5)


def test_every_function_of_sinkhorn_has_a_case() -> None:
    assert codes.missing() == []


def test_codes_wait_for_nothing(cuda: Device) -> None:
    scores = SCORES.to("cuda")
    with cuda.watched() as log:
        sinkhorn_knopp(scores, extra=scores[:5])
    assert log.waits == {}, log.waits_by_line()
    assert log.kernels["column_sums"] == 6
