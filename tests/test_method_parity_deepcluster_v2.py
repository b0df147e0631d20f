"""DeepCluster-v2: first pass and two epochs of one step against loops in float64 (Caron et al. 2020, their code).

The first centroids are given (`warm_start`), where the authors draw rows of the bank. A step sees 8 of the 12 images,
so that the other four have no label in the next."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from naive import (
    State,
    StillRun,
    assert_bf16_follows,
    assert_same_network,
    case,
    cosine_lr,
    features,
    larc,
    log_softmax,
    numbers,
    optimizer_of,
    our_step,
    pictures,
    projector,
    require_gradients,
    state_of,
    take_gradients,
)
from torch import Tensor

N, B, K, D, HEADS, V = 12, 8, 4, 8, 3, 4
VIEW = 0, 1, 0  # that each head clusters
TEMPERATURE, DECAY = 0.1, 0.01
BATCHES = torch.tensor([11, 1, 2, 3, 4, 5, 6, 7]), torch.tensor([8, 9, 10, 0, 4, 3, 2, 1])
FIRST_LR, LR, FINAL_LR = 1.0, 2.0, 0.5
EXPECTED_LOSSES = 2.055298701, 2.194801121
ZERO = "backbone.layer4.1.bn2.weight"  # so that LARC meets |p| = 0, and |g| = 0 in what lies before it
SETTINGS: dict[str, Any] = {"crops": ("2x32", "2x24"), "k": K, "batch": B, "hidden": 16, "dim": D, "n_heads": HEADS}
SETTINGS |= {"warm_start": True, "optimizer": "larc", "weight_decay": DECAY, "schedule": "cosine"}
SETTINGS |= {"lr": LR, "final_lr": FINAL_LR, "warmup_epochs": 1, "warmup_lr": FIRST_LR, "epochs": 4}


def crops_of(epoch: int, images: Iterable[int]) -> list[Tensor]:
    # not 16: there layer4 sees one pixel, and oneDNN 3.12's bfloat16 weight gradient reads memory that nobody wrote
    return [pictures(10 * epoch + v, images, size) for v, size in enumerate((32, 32, 24, 24))]


def given_centroids() -> Tensor:
    rows = numbers(7, HEADS, K, D)
    return (rows / rows.square().sum(2, keepdim=True).sqrt()).float()


def spherical_kmeans(rows: list[Tensor], centroids: list[Tensor], n_iters: int) -> tuple[list[int], list[Tensor]]:
    """Labels and centroids; a cluster without members keeps its centroid."""

    def nearest() -> list[int]:
        return [max(range(K), key=lambda c: float(row @ centroids[c])) for row in rows]

    for _ in range(n_iters):
        labels = nearest()
        for c in range(K):
            members = [row for row, label in zip(rows, labels, strict=True) if label == c]
            if members:
                mean = torch.stack(members).sum(0) / len(members)
                centroids[c] = mean / mean.square().sum().sqrt()
    return nearest(), centroids


def cross_entropy(logits: Tensor, targets: list[int]) -> Tensor:
    """Mean over the rows that have a target."""
    rows = [-log_softmax(row)[target] for row, target in zip(logits, targets, strict=True) if target != -100]
    return torch.stack(rows).sum() / len(rows)


def test_start_and_two_epochs() -> None:
    method = case("deepcluster_v2", N, zero=ZERO, **SETTINGS)
    optimizer = optimizer_of(method)
    run = StillRun(method, images=torch.empty(N), crops=crops_of(0, range(N)), steps_per_epoch=1)
    state, buffers = state_of(method), State()
    names = [name for name, _ in method.named_parameters()]
    lr = cosine_lr(FIRST_LR, LR, FINAL_LR, steps_per_epoch=1, warmup=1, epochs=4)

    method.start(run)
    bank: list[dict[int, Tensor]] = [{}, {}]  # view -> image -> row
    for v in (0, 1):  # large crops, one after the other
        z = projector(features([run.crops[v][run.order]], state), state)
        bank[v] = dict(zip(run.order.tolist(), z, strict=True))
    assert len(bank[0]) == B
    assert_same_network(method, state)

    centroids = [list(head) for head in given_centroids().double()]
    method.centroids.copy_(given_centroids())
    run.step = 1
    for epoch, batch in zip((1, 2), BATCHES, strict=True):
        for v, rows in enumerate(bank):
            for i, row in rows.items():
                torch.testing.assert_close(method.bank.bank[v, i].double(), row, rtol=0, atol=1e-6)

        method.begin_epoch(run, epoch)
        labels = [[-100] * N for _ in range(HEADS)]
        for head, v in enumerate(VIEW):
            found, centroids[head] = spherical_kmeans(list(bank[v].values()), centroids[head], n_iters=10)
            for i, label in zip(bank[v], found, strict=True):
                labels[head][i] = label
        assert method.labels.tolist() == labels
        for ours, expected in zip(method.centroids.double(), centroids, strict=True):
            torch.testing.assert_close(ours, torch.stack(expected), rtol=0, atol=1e-6)
        assert 0 < sum(labels[0][i] == -100 for i in batch) < B

        crops = crops_of(epoch, batch)
        require_gradients(state, names)
        z = projector(features(crops, state), state)
        losses = []
        for head in range(HEADS):
            logits = z @ torch.stack(centroids[head]).T / TEMPERATURE
            losses.append(cross_entropy(logits, [labels[head][i] for i in batch] * V))
        naive = torch.stack(losses).sum() / HEADS
        larc(state, take_gradients(naive, state, names), buffers, lr[epoch], DECAY)
        bank = [dict(zip(batch.tolist(), z.detach()[v * B : (v + 1) * B], strict=True)) for v in (0, 1)]

        ours = our_step(method, optimizer, run, crops, batch)
        assert naive.item() == pytest.approx(EXPECTED_LOSSES[epoch - 1], abs=1e-6, rel=0)
        assert ours == pytest.approx(EXPECTED_LOSSES[epoch - 1], abs=1e-6, rel=0)
        assert_same_network(method, state)
    for v, rows in enumerate(bank):
        for i, row in rows.items():
            torch.testing.assert_close(method.bank.bank[v, i].double(), row, rtol=0, atol=1e-6)


def test_bf16() -> None:
    method = case("deepcluster_v2", N, **SETTINGS)
    method.centroids.copy_(given_centroids())
    method.labels.copy_(torch.arange(N) % K)
    method.labels[:, :2] = -100
    assert_bf16_follows(method, crops_of(1, BATCHES[0]), BATCHES[0])
