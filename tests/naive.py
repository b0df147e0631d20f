"""What `test_method_parity_*.py` share: parts of the methods from their definitions, in float64, without our packages;
at the end, the few lines that drive our side as the loop does.

A naive network is a dictionary with the names of a state_dict. Cases are made of integer hashes, so that neither an
initialisation nor a generator's stream is part of what they record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pretrain.assemble import assemble_method, assemble_optimizer
from pretrain.method import Method
from pretrain.schedule import lr_at
from pretrain.settings import METHODS
from pretrain.step import loss_of, update
from torch import Tensor, nn

State = dict[str, Tensor]
NETWORK = "backbone", "neck", "projector", "head", "prototypes"


def numbers(seed: int, *shape: int) -> Tensor:
    """float64 in [-1, 1) that look random and are the same everywhere."""
    x = torch.arange(math.prod(shape)) * 2654435761 + seed * 40503 + 12345
    for shift, factor in ((15, 2246822519), (13, 3266489917), (16, 1)):
        x = x & 0xFFFFFFFF
        x = (x ^ (x >> shift)) * factor
    return ((x & 0xFFFFFFFF).double() / 2**31 - 1).reshape(shape)


def pictures(seed: int, images: Iterable[int], size: int, noise: float = 0.7) -> Tensor:
    """(n, 3, size, size): each image is one of five patterns, under noise that belongs to its place in the batch."""
    patterns = F.interpolate(3 * numbers(1, 5, 3, 4, 4), (size, size))
    places = enumerate(int(i) for i in images)
    return torch.stack([patterns[i * i % 5] + noise * numbers(1000 * seed + j, 3, size, size) for j, i in places])


# ---- the network ----


def batch_norm(x: Tensor, state: State, name: str, train: bool, momentum: float = 0.1) -> Tensor:
    """In training by the statistics of the batch, which the running ones follow (the variance unbiased)."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    if train:
        n = x.numel() // x.shape[1]
        mean = x.sum(axes) / n
        var = (x - mean.reshape(shape)).square().sum(axes) / n
        for key, new in (("running_mean", mean), ("running_var", var * n / (n - 1))):
            state[f"{name}.{key}"] = (1 - momentum) * state[f"{name}.{key}"] + momentum * new.detach()
    else:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    x = (x - mean.reshape(shape)) / (var.reshape(shape) + 1e-5).sqrt()
    if f"{name}.weight" not in state:
        return x
    return x * state[f"{name}.weight"].reshape(shape) + state[f"{name}.bias"].reshape(shape)


def sobel(images: Tensor) -> Tensor:
    """Mean of the channels, then gradients along x and y, with a border of zeros."""
    grey = F.pad((images[:, 0] + images[:, 1] + images[:, 2]) / 3, (1, 1, 1, 1))
    h, w = images.shape[2:]
    out = torch.zeros(len(images), 2, h, w, dtype=images.dtype)
    kernels = (((1, 0, -1), (2, 0, -2), (1, 0, -1)), ((1, 2, 1), (0, 0, 0), (-1, -2, -1)))
    for channel, kernel in enumerate(kernels):
        for dy in range(3):
            for dx in range(3):
                out[:, channel] += kernel[dy][dx] * grey[:, dy : dy + h, dx : dx + w]
    return out


def resnet18(images: Tensor, state: State, train: bool) -> Tensor:
    """(B, 3, S, S) -> (B, D); with Sobel filters in front if the first convolution takes two channels."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int, padding: int) -> Tensor:
        x = F.conv2d(x, state[f"backbone.{conv}.weight"], stride=stride, padding=padding)
        return batch_norm(x, state, f"backbone.{norm}", train)

    x = sobel(images) if state["backbone.conv1.weight"].shape[1] == 2 else images
    x = F.max_pool2d(F.relu(conv_norm(x, "conv1", "bn1", 2, 3)), 3, 2, 1)
    for block in (f"layer{layer}.{i}" for layer in (1, 2, 3, 4) for i in (0, 1)):
        stride = 2 if block in ("layer2.0", "layer3.0", "layer4.0") else 1
        out = F.relu(conv_norm(x, f"{block}.conv1", f"{block}.bn1", stride, 1))
        out = conv_norm(out, f"{block}.conv2", f"{block}.bn2", 1, 1)
        if stride == 2:
            x = conv_norm(x, f"{block}.downsample.0", f"{block}.downsample.1", 2, 0)
        x = F.relu(out + x)
    return x.mean((2, 3))


def features(crops: list[Tensor], state: State, train: bool = True) -> Tensor:
    """(V B, D): crops of one size that follow each other are one batch."""
    sizes = [list(same) for _, same in groupby(crops, key=lambda crop: crop.shape[-1])]
    return torch.cat([resnet18(torch.cat(same), state, train) for same in sizes])


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def projector(x: Tensor, state: State) -> Tensor:
    """Linear, batch norm, ReLU, linear, unit rows; in training."""
    x = F.relu(batch_norm(linear(x, state, "projector.0"), state, "projector.1", True))
    x = linear(x, state, "projector.3")
    return x / x.square().sum(1, keepdim=True).sqrt()


# ---- losses ----


def log_softmax(logits: Tensor) -> Tensor:
    """Of one row (K,)."""
    return logits - logits.max() - (logits - logits.max()).exp().sum().log()


def weighted_cross_entropy(logits: Tensor, labels: list[int], weights: list[float]) -> Tensor:
    """Rows weigh as their label does, and the sum of the used weights divides."""
    total, used = torch.zeros((), dtype=torch.float64), 0.0
    for row, label in zip(logits, labels, strict=True):
        total = total - weights[label] * log_softmax(row)[label]
        used += weights[label]
    return total / used


def class_weights(labels: list[int], k: int, power: float) -> list[float]:
    """(1 / n_c)^power for n_c images of class c, so that they sum to 1."""
    weights = [(1 / (labels.count(c) + 1e-10)) ** power for c in range(k)]
    return [weight / sum(weights) for weight in weights]


# ---- k-means ----


def kmeans(rows: Tensor, initial: Tensor, n_iters: int) -> list[int]:
    """Labels of Lloyd's algorithm from the rows numbered `initial` (K,)."""
    centroids = [rows[i] for i in initial]

    def nearest() -> list[int]:
        return [min(range(len(centroids)), key=lambda c: float((row - centroids[c]).square().sum())) for row in rows]

    for _ in range(n_iters):
        labels = nearest()
        for c in range(len(centroids)):
            members = [row for row, label in zip(rows, labels, strict=True) if label == c]
            assert members, "the case empties a cluster: choose other numbers"
            centroids[c] = torch.stack(members).sum(0) / len(members)
    return nearest()


# ---- gradients, optimisers ----


def require_gradients(state: State, names: list[str]) -> None:
    for name in names:
        state[name] = state[name].detach().requires_grad_()


def take_gradients(loss: Tensor, state: State, names: list[str]) -> State:
    """Of what `require_gradients` marked; a state of plain numbers again."""
    gradients = torch.autograd.grad(loss, [state[name] for name in names])
    for name in names:
        state[name] = state[name].detach()
    return dict(zip(names, gradients, strict=True))


def sgd(state: State, gradients: State, buffers: State, lr: float, weight_decay: float) -> None:
    """Momentum 0.9, but none in the head."""
    for name, g in gradients.items():
        g = g + weight_decay * state[name]
        if name in buffers and not name.startswith("head."):
            g = 0.9 * buffers[name] + g
        buffers[name] = g
        state[name] = state[name] - lr * g


def larc(state: State, gradients: State, buffers: State, lr: float, weight_decay: float) -> None:
    """apex's, not clipping, with trust 0.001 around SGD of momentum 0.9."""
    scaled: State = {}
    for name, g in gradients.items():
        p_norm, g_norm = (float(t.square().sum().sqrt()) for t in (state[name], g))
        if p_norm != 0 and g_norm != 0:
            g = 0.001 * p_norm / (g_norm + weight_decay * p_norm + 1e-8) * (g + weight_decay * state[name])
        scaled[name] = g
    sgd(state, scaled, buffers, lr, weight_decay=0.0)


def cosine_lr(start: float, base: float, final: float, steps_per_epoch: int, warmup: int, epochs: int) -> list[float]:
    """Every step's: a straight line with both ends, then half a cosine."""
    n, rest = steps_per_epoch * warmup, steps_per_epoch * (epochs - warmup)
    line = [start + (base - start) * i / (n - 1) if n > 1 else start for i in range(n)]
    return line + [final + 0.5 * (base - final) * (1 + math.cos(math.pi * t / rest)) for t in range(rest)]


# ---- our side ----


def case(name: str, n_images: int, *, zero: str = "", **settings: Any) -> Method:
    """A method with a thin ResNet-18 of hashed numbers, its network in float64; its memories stay float32."""
    values = {"method": name, "arch": "resnet18", "width": 0.125} | settings
    method = assemble_method(METHODS[name](**values), n_images)
    with torch.no_grad():
        for seed, (key, p) in enumerate(method.named_parameters()):
            u = numbers(seed, *p.shape)
            if p.ndim > 1:
                p.copy_(u * math.sqrt(6 / p[0].numel()))
            else:
                p.copy_(1 + 0.3 * u if key.endswith("weight") else 0.3 * u)
            if key == zero:
                p.zero_()
    for part in NETWORK:
        if hasattr(method, part):
            getattr(method, part).double()
    return method.train()


def state_of(method: Method) -> State:
    """Weights and running statistics."""
    kept = method.state_dict().items()
    return {name: t.clone() for name, t in kept if name.split(".")[0] in NETWORK and t.is_floating_point()}


class StillRun:
    """The part of a run that methods use. Image i is row i of `images` and of each of `crops`; a pass is one batch."""

    group = None
    step = 0

    def __init__(self, method: Method, images: Tensor, crops: list[Tensor], steps_per_epoch: int) -> None:
        self.method, self.images, self.crops, self.steps_per_epoch = method, images, crops, steps_per_epoch
        self.n_images, self.batch = len(images), method.settings.batch

    def own_part(self, rows: Tensor) -> Tensor:
        return rows

    gather = own_part

    def extract(
        self, network: Any, indices: Tensor | None = None, batch_statistics: bool = False, what: str = ""
    ) -> Tensor:
        return self._pass(network, self.images if indices is None else self.images[indices], batch_statistics)

    def extract_crops(self, network: Any, indices: Tensor, what: str = "") -> Tensor:
        self.order = indices
        return self._pass(network, [crop[indices] for crop in self.crops], True)

    @torch.no_grad()
    def _pass(self, network: Any, images: Any, batch_statistics: bool) -> Tensor:
        self.method.eval()
        for module in self.method.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(batch_statistics)
        rows: Tensor = network(images).float()
        self.method.train()
        return rows


def our_step(method: Method, optimizer: torch.optim.Optimizer, run: Any, crops: list[Tensor], indices: Tensor) -> float:
    """One turn of the loop."""
    lr = lr_at(run.step, run.steps_per_epoch, method.settings)
    loss = update(fabric_of("32-true"), method, optimizer, crops, indices, step=run.step, lr=lr)
    method.after_step(run, indices)
    run.step += 1
    return loss.item()


def fabric_of(precision: Any) -> Fabric:
    """As `train` has it with one process."""
    return Fabric(accelerator="cpu", devices=1, precision=precision)


def optimizer_of(method: Method) -> torch.optim.Optimizer:
    return assemble_optimizer(method, method.settings)


def assert_same_network(method: Method, state: State) -> None:
    ours = state_of(method)
    assert ours.keys() == state.keys()
    for name, expected in state.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-6, msg=f"{name} differs")


def assert_bf16_follows(method: Method, crops: list[Tensor], indices: Tensor) -> None:
    """With --precision bf16 the loss is float32, within 2 % of that of 32, and all gradients are finite."""
    method.float()
    crops = [crop.float() for crop in crops]
    single = loss_of(fabric_of("32-true"), method, crops, indices).item()
    loss = loss_of(fabric_of("bf16-mixed"), method, crops, indices)
    assert loss.dtype == torch.float32
    assert abs(loss.item() - single) < 0.02 * single
    loss.backward()
    for name, p in method.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
