"""Backbone, heads and probes on the device against float64 on the CPU: torch's kernels, in our layout."""

from __future__ import annotations

import copy

import torch
from eval_probes import KNNProbe, nearest_neighbours, rankme
from sobel_resnet import Projector, ResNet
from torch import Tensor, nn

from benchmarks.gpu.part import Figures, Part


def run(part: Part) -> None:
    arch, side, n = part.size(("resnet50", 224, 8), ("resnet18", 32, 4))
    for sobel in (False, True):
        name = f"{arch}, {n} x {side} px" + (", Sobel" if sobel else "")
        part.try_(f"{name}, float32 without TF32", lambda s=sobel: network(part, arch, side, n, s, tf32=False))
        part.try_(f"{name}, float32 as torch has it", lambda s=sobel: network(part, arch, side, n, s, tf32=True))
        part.try_(f"{name}, bf16 autocast", lambda s=sobel: network(part, arch, side, n, s, bf16=True))
    part.try_("kNN, neighbours, RankMe", lambda: probes(part))


def network(part: Part, arch: str, side: int, n: int, sobel: bool, *, tf32: bool = True, bf16: bool = False) -> Figures:
    """Embeddings and the gradient of the first convolution, relative errors; in bf16 beside the CPU's in bf16."""
    g = torch.Generator().manual_seed(0)
    images = [torch.randn(n, 3, s, s, generator=g) for s in (side, side // 2)]
    exact = nn.Sequential(ResNet(arch=arch, sobel=sobel, width=part.size(1.0, 0.25), seed=0))
    exact.append(Projector(exact[0].num_features, 256, 128, seed=1))
    here = copy.deepcopy(exact).to(part.device, memory_format=torch.channels_last)
    on_cpu = copy.deepcopy(exact)
    expected = embedded(exact.double(), [x.double() for x in images])
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        z = embedded(here, [x.to(part.device, memory_format=torch.channels_last) for x in images], bf16)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    off = relative(z, expected)
    figures = {
        "embeddings off": off,
        "first gradient off": relative(first_convolution(here).weight.grad, first_convolution(exact).weight.grad),
    }
    if not bf16:
        return {"ok": off < (1e-2 if tf32 else 1e-4)} | figures
    of_cpu = relative(embedded(on_cpu, images, bf16=True), expected)
    return {"ok": off < 2 * of_cpu} | figures | {"embeddings off, CPU in bf16": of_cpu}


def embedded(network: nn.Module, crops: list[Tensor], bf16: bool = False) -> Tensor:
    """Embeddings, after a backward pass."""
    with torch.autocast(crops[0].device.type, torch.bfloat16, enabled=bf16):
        z: Tensor = network(crops)
    wide = z if z.dtype == torch.float64 else z.float()
    wide.square().mul(torch.arange(z.shape[1], device=z.device)).sum().backward()
    return z


def first_convolution(network: nn.Module) -> nn.Conv2d:
    return next(m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad)


def relative(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float((found.detach().cpu().double() - expected.detach()).norm() / expected.detach().norm())


def probes(part: Part) -> Figures:
    n, dim = part.size((5000, 512), (300, 16))
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(10, dim, generator=g)
    labels = torch.randint(10, (n,), generator=g)
    x = centres[labels] + 2 * torch.randn(n, dim, generator=g)
    there = x.to(part.device), labels.to(part.device)
    half = n // 2
    scores = [KNNProbe(k=20).fit(a[:half], b[:half]).score(a[half:], b[half:]) for a, b in (there, (x, labels))]
    found, expected = (nearest_neighbours(a[half:], a[:half], k=8)[0].cpu() for a in (there[0], x.double()))
    differ = float((found != expected).double().mean())
    ranks = rankme(there[0]), rankme(x.double())
    ok = abs(scores[0] - scores[1]) < 2e-3 and differ < 1e-2 and abs(ranks[0] / ranks[1] - 1) < 1e-4
    return {
        "ok": ok,
        "top-1": scores[0],
        "top-1 on the CPU": scores[1],
        "neighbours that differ": differ,
        "RankMe": ranks[0],
    }
