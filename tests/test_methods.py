"""What a method owes the loop: gradients for the backbone and none for the memory, and a step like the paper's."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from pretrain.config import OdcSettings
from pretrain.methods.odc import Odc
from sobel_resnet import resnet18
from torch import Tensor

N, B, K = 60, 12, 5


class FakeRun:
    """The part of a run that `start` and `after_step` use."""

    step, n_images, steps_per_epoch, batch = 0, N, 5, B

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def extract(self, network: torch.nn.Module, indices: Tensor, batch_statistics: bool) -> Tensor:
        with torch.no_grad():
            return network(self.images[indices])


def method_and_images() -> tuple[Odc, Tensor]:
    images = torch.randn(N, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = OdcSettings(arch="resnet18", k=K, neck_hidden=16, neck_dim=8, neck_dropout=0.0, min_cluster=3)
    backbone = resnet18(stem="imagenet", width=0.125, seed=1)
    method = Odc(backbone, settings, N)
    method.eval().start(FakeRun(images))  # type: ignore[arg-type]
    return method.train(), images


def test_loss_reaches_the_backbone_and_not_the_memory() -> None:
    method, images = method_and_images()
    before = copy.deepcopy(method.memory.state_dict())
    loss = method.loss([images[:B]], torch.arange(B))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.ndim == 0
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert method.backbone.conv1.weight.grad.abs().sum() > 0
    for name, value in method.memory.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_step_is_the_papers() -> None:
    """Weighted cross-entropy against the labels before the step; then memory <- unit((1 - m) old + m unit(z))."""
    method, images = method_and_images()
    indices = torch.tensor([3, 1, 4, 15, 9, 26, 5, 35, 8, 58, 32, 38])
    labels, old = method.memory.assignments[indices].clone(), method.memory.bank[indices].double()
    counts = torch.bincount(method.memory.assignments, minlength=K).double()
    centroids = method.memory.centroids.double().clone()

    reference = copy.deepcopy(method).double()
    z = reference.neck(reference.backbone(images[indices].double()))
    weight = (1 / (counts + 1e-10)) ** 0.5
    weight = weight / weight.sum()
    log_p = torch.log_softmax(reference.head(z), dim=1)
    expected = -sum(weight[c] * log_p[i, c] for i, c in enumerate(labels)) / weight[labels].sum()

    loss = method.loss([images[indices]], indices)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)

    method.after_step(FakeRun(images), indices)  # type: ignore[arg-type]
    row = F.normalize(0.5 * old + 0.5 * F.normalize(z.detach()))
    torch.testing.assert_close(method.memory.bank[indices].double(), row, rtol=1e-4, atol=1e-5)
    changed = (row @ centroids.T).argmax(1) != labels
    assert abs(float(method.change) - changed.double().mean().item()) < 1e-6


def test_the_head_moves_without_momentum() -> None:
    from pretrain.loop import _parameter_groups

    method, _ = method_and_images()
    groups = {group["momentum"]: group["params"] for group in _parameter_groups(method, method.settings)}
    assert {id(p) for p in groups[0.0]} == {id(p) for p in method.head.parameters()}
    assert len(groups[0.9]) == len([*method.backbone.parameters(), *method.neck.parameters()])


def test_an_epoch_draws_with_replacement_and_by_key() -> None:
    method, images = method_and_images()
    first, again, next_ = (method.begin_epoch(FakeRun(images), epoch) for epoch in (0, 0, 1))  # type: ignore[arg-type]
    assert torch.equal(first, again)
    assert not torch.equal(first, next_)
    assert len(first) == 5 * B
    assert len(first.unique()) < len(first)
