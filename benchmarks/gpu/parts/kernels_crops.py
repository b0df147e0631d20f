"""Crops on the device against the same plan in float64 on the CPU, for every ready recipe."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import multicrop_aug
import torch
from multicrop_aug import CropPlan, PackedImages, Recipe, render
from torch import Tensor

from benchmarks.gpu.part import Figures, Part

READY = {
    "clustering": ("deepcluster", "odc", "swav", "deepcluster_v2", "evaluation"),
    "contrastive": ("simclr", "byol", "moco_v3", "dino"),
}
# a crop is normalised: 1 is about a quarter of the range of its values
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}
SHARE_OFF = 1e-3  # a rotated crop takes the nearest pixel, and rounding may choose its neighbour


def run(part: Part, which: str) -> None:
    """`kernels_crops:clustering`, `:contrastive`, `:sizes`: each compiles a dozen kernels, so they run side by side."""
    n, side = part.size((8, 256), (2, 24))
    for name in READY.get(which, ()):
        recipe = getattr(multicrop_aug, name)(**part.size({}, small_sizes(name)))
        for dtype in (torch.float32, torch.bfloat16):
            short = str(dtype).removeprefix("torch.")
            part.try_(f"{name}, set in memory, {short}", lambda r=recipe, d=dtype: resident(part, r, n, side, d))
    if which == "sizes":
        odd = part.size({"size": 223, "small_size": 97}, small_sizes("swav"))
        recipe = multicrop_aug.swav(**odd, rotation_degrees=5.0)
        part.try_("swav, odd sizes, rotated", lambda: resident(part, recipe, n, side - 3, torch.float32))
        part.try_("swav, photographs of many sizes", lambda: packed(part, recipe, n, side, torch.float32))
        part.try_("swav, photographs of many sizes, float16", lambda: packed(part, recipe, n, side, torch.float16))


def small_sizes(name: str) -> dict[str, int]:
    return {"size": 16} | ({"small_size": 8, "n_small": 2} if name in ("swav", "dino") else {})


def resident(part: Part, recipe: Recipe, n: int, side: int, dtype: torch.dtype) -> Figures:
    """`rows` of a larger set, as the loop has it."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2 * n, 3, side, side), dtype=torch.uint8, generator=g)
    rows = torch.randperm(2 * n, generator=g)[:n]
    plan = recipe.draw(rows, epoch=1, sizes=(side, side), seed=3)
    there = images.to(part.device), rows.to(part.device)
    found = [
        render(there[0], plan.to(part.device), rows=there[1], dtype=dtype, memory_format=torch.channels_last)
        for _ in range(2)
    ]
    return compared(found, in_float64(images, plan, rows), dtype)


def packed(part: Part, recipe: Recipe, n: int, side: int, dtype: torch.dtype) -> Figures:
    g = torch.Generator().manual_seed(1)
    sides = (side * (0.6 + torch.rand(n, 2, generator=g))).long()
    images = PackedImages.pack(
        [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=g) for h, w in sides.tolist()]
    )
    plan = recipe.draw(torch.arange(n), epoch=0, sizes=images.sizes, seed=3)
    found = [render(images.to(part.device), plan, dtype=dtype) for _ in range(2)]
    return compared(found, in_float64(images, plan), dtype)


def compared(found: list[list[Tensor]], expected: list[Tensor], dtype: torch.dtype) -> Figures:
    first, again = ([crop.cpu() for crop in crops] for crops in found)
    off = torch.cat([(a.double() - b).abs().flatten() for a, b in zip(first, expected, strict=True)])
    off = off.nan_to_num(nan=torch.inf)
    share = float((off > TOLERANCE[dtype]).double().mean())
    same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    right = share < SHARE_OFF and same and all(crop.dtype == dtype for crop in first)
    typical = float(off[off <= TOLERANCE[dtype]].max()) if share < 1 else float("nan")
    return {"ok": right, "share of pixels off": share, "largest error of the others": typical, "same bits twice": same}


def in_float64(images: Tensor | PackedImages, plan: CropPlan, rows: Tensor | None = None) -> list[Tensor]:
    """The `torch` backend says float32 by `.float()` and by torch's default; here both mean float64."""
    groups = tuple(group.apply(lambda t: t.double() if t.is_floating_point() else t) for group in plan.groups)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(Tensor, "float", Tensor.double):
            return render(images, replace(plan, groups=groups), "torch", rows=rows, dtype=torch.float64)
    finally:
        torch.set_default_dtype(before)
