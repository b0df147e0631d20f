"""DeepCluster: two epochs of one step against loops in float64 (dc18 and MMSelfSup as one; Caron et al. 2018).

Clusters are those of naive k-means from the rows that our key draws. The new head's weights are drawn, so they are an
input of the naive side, and checked for their law."""

from typing import Any

import pytest
import torch
from naive import (
    State,
    StillRun,
    assert_bf16_follows,
    assert_same_network,
    case,
    class_weights,
    features,
    kmeans,
    linear,
    optimizer_of,
    our_step,
    pictures,
    require_gradients,
    sgd,
    state_of,
    take_gradients,
    weighted_cross_entropy,
)
from steady_runs.keys import key
from torch import Tensor

N, B, K, PCA = 24, 8, 4, 6
LR, GAMMA, DECAY = 0.5, 0.4, 0.01
BATCHES = torch.arange(B), torch.tensor([1, 20, 5, 11, 23, 8, 14, 17])
EXPECTED_LOSSES = {0.0: (1.366243525, 1.408769798), 0.5: (1.364576344, 1.448026214)}  # by reweight_power


def settings(power: float) -> dict[str, Any]:
    about: dict[str, Any] = {"k": K, "batch": B, "sobel": True, "pca_dim": PCA, "reweight_power": power, "epochs": 2}
    return about | {"lr": LR, "lr_steps": (1,), "lr_gamma": GAMMA, "weight_decay": DECAY}


def whiten(x: Tensor, dim: int) -> Tensor:
    """Unit rows of x on the largest eigenvectors of the scatter matrix, each divided by the root of its eigenvalue."""
    mean = sum(x[1:], x[0]) / len(x)
    scatter = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for row in x:
        scatter += torch.outer(row - mean, row - mean)
    values, vectors = torch.linalg.eigh(scatter)  # ascending
    rows = []
    for row in x:
        y = torch.stack([(row - mean) @ vectors[:, -1 - i] / values[-1 - i].sqrt() for i in range(dim)])
        rows.append(y / y.square().sum().sqrt())
    return torch.stack(rows)


@pytest.mark.parametrize("power", EXPECTED_LOSSES)
def test_two_epochs(power: float) -> None:
    method = case("deepcluster", N, **settings(power))
    optimizer, images = optimizer_of(method), pictures(0, range(N), 32)
    run = StillRun(method, images, [], steps_per_epoch=1)
    state, buffers = state_of(method), State()
    names = [name for name, _ in method.named_parameters()]
    head = method.head
    for epoch, batch in enumerate(BATCHES):
        old_head = head.weight.detach().clone()
        method.begin_epoch(run, epoch)

        seed = key(0, "clusters", epoch)
        rows = whiten(features([images], state, train=False), PCA)
        initial = torch.randperm(N, generator=torch.Generator().manual_seed(seed))[:K]
        labels = kmeans(rows, initial, n_iters=20)
        assert method.labels.tolist() == labels

        new_head = head.weight.detach().clone()
        assert not torch.equal(new_head, old_head)
        assert abs(float(new_head.std()) - 0.01) < 0.002
        assert abs(float(new_head.mean())) < 0.002
        assert not head.bias.any()
        state |= {"head.weight": new_head, "head.bias": torch.zeros(K, dtype=torch.float64)}

        crops = [pictures(epoch + 1, batch, 32)]
        require_gradients(state, names)
        logits = linear(features(crops, state), state, "head")
        targets = [labels[i] for i in batch]
        naive = weighted_cross_entropy(logits, targets, class_weights(labels, K, power))
        gradients = take_gradients(naive, state, names)
        sgd(state, gradients, buffers, LR * GAMMA if epoch == 1 else LR, DECAY)

        ours = our_step(method, optimizer, run, crops, batch)
        assert naive.item() == pytest.approx(EXPECTED_LOSSES[power][epoch], abs=1e-6, rel=0)
        assert ours == pytest.approx(EXPECTED_LOSSES[power][epoch], abs=1e-6, rel=0)
        assert_same_network(method, state)


def test_bf16() -> None:
    method = case("deepcluster", N, **settings(0.5))
    method.labels.copy_(torch.arange(N) % K)
    assert_bf16_follows(method, [pictures(1, BATCHES[0], 32)], BATCHES[0])
