"""ODC: the start and two epochs of one step against loops in float64 (Zhan et al. 2020, MMSelfSup's order of updates).

As we do, and MMSelfSup does not, the first features are taken with the statistics of their batch. First clusters are
those of naive k-means from the rows that our key draws. No cluster becomes small here, and dropout is off."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from naive import (
    State,
    StillRun,
    assert_bf16_follows,
    assert_same_network,
    batch_norm,
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

N, B, K = 24, 8, 4
LR, GAMMA, DECAY, MOMENTUM = 0.01, 0.4, 0.05, 0.6
BATCHES = torch.tensor([0, 1, 9, 3, 17, 5, 9, 7]), torch.tensor([1, 20, 5, 11, 23, 8, 5, 17])  # 9 twice, 5 twice
EXPECTED_LOSSES = 1.812108635, 1.223609296
SETTINGS: dict[str, Any] = {"k": K, "batch": B, "epochs": 2, "min_cluster": 1, "centroid_every": 2}
SETTINGS |= {"neck_hidden": 16, "neck_dim": 8, "neck_dropout": 0.0, "memory_momentum": MOMENTUM}
SETTINGS |= {"lr": LR, "lr_steps": (1,), "lr_gamma": GAMMA, "weight_decay": DECAY}


def neck(x: Tensor, state: State) -> Tensor:
    hidden = F.relu(batch_norm(linear(x, state, "neck.fc0"), state, "neck.bn0", True, momentum=0.001))
    return F.relu(linear(hidden, state, "neck.fc1"))


def unit(row: Tensor) -> Tensor:
    return row / (row.square().sum().sqrt() + 1e-10)


def means(bank: list[Tensor], labels: list[int]) -> list[Tensor]:
    members = [[row for row, label in zip(bank, labels, strict=True) if label == c] for c in range(K)]
    assert all(members), "the case empties a cluster: choose other numbers"
    return [torch.stack(rows).sum(0) / len(rows) for rows in members]


def test_start_and_two_epochs() -> None:
    method = case("odc", N, **SETTINGS)
    memory = method.memory
    optimizer, images = optimizer_of(method), pictures(0, range(N), 32)
    run = StillRun(method, images, [], steps_per_epoch=1)
    state, buffers = state_of(method), State()
    names = [name for name, _ in method.named_parameters()]

    method.start(run)
    bank = [unit(row) for row in neck(features([images], state), state)]
    initial = torch.randperm(N, generator=torch.Generator().manual_seed(key(0, "start")))[:K]
    labels = kmeans(torch.stack(bank), initial, n_iters=20)
    centroids = means(bank, labels)

    def assert_same_memory() -> None:
        assert memory.assignments.tolist() == labels
        assert memory.counts.tolist() == [labels.count(c) for c in range(K)]
        torch.testing.assert_close(memory.bank.double(), torch.stack(bank), rtol=0, atol=1e-6)
        torch.testing.assert_close(memory.centroids.double(), torch.stack(centroids), rtol=0, atol=1e-6)

    assert_same_memory()
    assert_same_network(method, state)

    for step, batch in enumerate(BATCHES):
        crops = [pictures(step + 1, batch, 32, noise=3)]
        require_gradients(state, names)
        z = neck(features(crops, state), state)
        targets = [labels[i] for i in batch]  # of before this step
        naive = weighted_cross_entropy(linear(z, state, "head"), targets, class_weights(labels, K, 0.5))
        gradients = take_gradients(naive, state, names)
        sgd(state, gradients, buffers, LR * GAMMA if step == 1 else LR, DECAY)

        old_bank, old_labels = list(bank), list(labels)
        changed = 0
        for i, row in zip(batch.tolist(), z.detach(), strict=True):  # of an image that is there twice, the last counts
            bank[i] = unit((1 - MOMENTUM) * old_bank[i] + MOMENTUM * unit(row))
            labels[i] = max(range(K), key=lambda c: float(centroids[c] @ bank[i]))
            changed += labels[i] != old_labels[i]
        assert changed, "labels before and after the step should differ for the case to tell them apart"
        if step == 1:
            centroids = means(bank, labels)

        ours = our_step(method, optimizer, run, crops, batch)
        assert naive.item() == pytest.approx(EXPECTED_LOSSES[step], abs=1e-6, rel=0)
        assert ours == pytest.approx(EXPECTED_LOSSES[step], abs=1e-6, rel=0)
        assert method.figures()["change"] == pytest.approx(changed / B)
        assert_same_memory()
        assert_same_network(method, state)


def test_bf16() -> None:
    method = case("odc", N, **SETTINGS)
    method.start(StillRun(method, pictures(0, range(N), 32), [], 1))
    assert_bf16_follows(method, [pictures(1, BATCHES[0], 32)], BATCHES[0])
