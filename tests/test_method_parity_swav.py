"""SwAV: two steps against loops in float64 (Caron et al. 2020, the order of the authors' main_swav.py).

The queue is as long as a batch: the first step fills it, the second uses it. Prototypes wait in the first step and
learn in the second."""

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
    optimizer_of,
    our_step,
    pictures,
    projector,
    require_gradients,
    state_of,
    take_gradients,
)
from torch import Tensor

N, B, K, D, V = 8, 8, 5, 8, 4
TEMPERATURE, EPSILON, DECAY = 0.1, 0.05, 0.01
BATCHES = torch.arange(B), torch.tensor([1, 4, 5, 0, 7, 2, 6, 3])
FIRST_LR, LR, FINAL_LR = 1.0, 2.0, 0.5
EXPECTED_LOSSES = 5.552679585, 4.284752458
ZERO = "backbone.layer4.1.bn2.weight"  # so that LARC meets |p| = 0, and |g| = 0 in what lies before it
SETTINGS: dict[str, Any] = {"crops": ("2x32", "2x24"), "k": K, "batch": B, "hidden": 16, "dim": D}
SETTINGS |= {"queue": B, "queue_from_epoch": 0}
SETTINGS |= {"freeze_prototypes_steps": 1, "optimizer": "larc", "weight_decay": DECAY, "schedule": "cosine"}
SETTINGS |= {"lr": LR, "final_lr": FINAL_LR, "warmup_epochs": 1, "warmup_lr": FIRST_LR, "epochs": 2}


def crops_of(step: int, images: Iterable[int]) -> list[Tensor]:
    # not 16: there layer4 sees one pixel, and oneDNN 3.12's bfloat16 weight gradient reads memory that nobody wrote
    return [pictures(10 * step + v, images, size) for v, size in enumerate((32, 32, 24, 24))]


def sinkhorn(scores: Tensor) -> Tensor:
    """(n, K) codes, in the authors' order: the total, then three times prototypes and samples."""
    q = (scores / EPSILON).exp().T
    q = q / q.sum()
    n = q.shape[1]
    for _ in range(3):
        q = torch.stack([row / row.sum() / K for row in q])
        q = torch.stack([column / column.sum() / n for column in q.T]).T
    return (q * n).T


def test_two_steps() -> None:
    method = case("swav", N, zero=ZERO, **SETTINGS)
    optimizer = optimizer_of(method)
    run = StillRun(method, images=torch.empty(N), crops=[], steps_per_epoch=2)
    state, buffers = state_of(method), State()
    lr = cosine_lr(FIRST_LR, LR, FINAL_LR, steps_per_epoch=2, warmup=1, epochs=2)
    c = "prototypes.weight"
    assert not torch.allclose(state[c].square().sum(1), torch.ones(K).double(), atol=0.1)
    queue: list[Tensor] = []  # of crops 0 and 1, (B, D) each

    method.begin_epoch(run, 0)
    for step, batch in enumerate(BATCHES):
        crops = crops_of(step, batch)
        state[c] = torch.stack([row / row.square().sum().sqrt() for row in state[c]])
        names = [name for name, _ in method.named_parameters() if step == 1 or name != c]
        require_gradients(state, names)
        z = projector(features(crops, state), state)
        views = [z[v * B : (v + 1) * B] for v in range(V)]
        losses = []
        for i in (0, 1):
            rows = torch.cat([queue[i], views[i]]) if queue else views[i]
            codes = sinkhorn((rows @ state[c].T).detach())[-B:]
            for v in range(V):
                if v != i:
                    for code, row in zip(codes, views[v], strict=True):
                        losses.append(-(code * log_softmax(row @ state[c].T / TEMPERATURE)).sum() / B / (V - 1))
        naive = torch.stack(losses).sum() / 2
        larc(state, take_gradients(naive, state, names), buffers, lr[step], DECAY)
        queue = [z.detach()[:B], z.detach()[B : 2 * B]]

        ours = our_step(method, optimizer, run, crops, batch)
        assert naive.item() == pytest.approx(EXPECTED_LOSSES[step], abs=1e-6, rel=0)
        assert ours == pytest.approx(EXPECTED_LOSSES[step], abs=1e-6, rel=0)
        assert_same_network(method, state)
        torch.testing.assert_close(method.queue.embeddings.double(), torch.stack(queue), rtol=0, atol=1e-6)


def test_bf16() -> None:
    assert_bf16_follows(case("swav", N, **SETTINGS), crops_of(0, BATCHES[0]), BATCHES[0])
