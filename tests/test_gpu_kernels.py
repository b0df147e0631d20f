"""Every Triton kernel of the project compiles for GPUs that need not be here, and spills no registers.

Arguments and launch parameters are those of the product's own code, caught as it launches. What a kernel takes of a GPU
is printed, as a table, by `python tests/test_gpu_kernels.py`; benchmarks/records/ has one."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_kernels import CAPABILITIES, Launch, Pointer, Usage, compiled, launches_of
from multicrop_aug._operations import DRAWS, OPERATIONS, Numbers

MOST_SPILLED = 16  # bytes a thread

# sizes of the recipes, and sizes that no load of several numbers divides
PROTOTYPES = (100, 512, 3000, 4096, 8192, 10000, 16384, 3001, 8191, 16383)
DIMENSIONS = (128, 256, 100, 129, 2050)
CROP_SIZES = (224, 96, 32, 24)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def sinkhorn_launches(k: int, dtype: torch.dtype, transport: bool) -> list[Launch]:
    """Of two iterations and the codes; transport: with marginals, columns only leant towards theirs."""
    from sinkhorn import _triton_passes
    from sinkhorn._passes import solve
    from sinkhorn._problem import Problem
    from sinkhorn._ranks import Ranks

    options: dict[str, Any] = {}
    if transport:
        shares = empty(k, dtype=torch.float64)
        options = {"weights": [empty(4096)], "log_shares": shares, "exponent": 0.6}

    def call() -> None:
        passes = _triton_passes.TritonPasses(Problem([empty(4096, k, dtype=dtype)], 0.05, Ranks(None), **options))
        log_u, _ = solve(passes, 2)
        passes.codes(log_u)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_triton_passes, "_multiprocessors", lambda device: 132)
        return launches_of(call)


def nearest_launches(dim: int) -> list[Launch]:
    from cluster_memory._triton_nearest import nearest

    return launches_of(lambda: nearest(empty(4096, dim), empty(3000, dim), empty(3000), -2.0))


# of the recipes: the order as digits (DIGITS of the kernel), and where rotation and jitter stand in it
NONE = len(OPERATIONS)
PLAIN = {"ORDER": 0, "N_BEFORE": NONE, "ROTATION_AT": NONE, "JITTER_AT": NONE, "BLURRED": False}
SWAV = {**PLAIN, "ORDER": 2 + 3 * 8, "N_BEFORE": 2, "JITTER_AT": 0}
ODC = {**PLAIN, "ORDER": 1 + 2 * 8 + 3 * 64, "ROTATION_AT": 0, "JITTER_AT": 1}
BLURRED = {**PLAIN, "BLURRED": True}
CROP_TYPES = {
    "pixels": "u8",
    **{draw.tensor: "fp32" if isinstance(draw, Numbers) else "u8" for draw in DRAWS},
    **dict.fromkeys(("places", "rows"), "i64"),
    **dict.fromkeys(("box", "resized", "offset"), "i32"),
    **dict.fromkeys(("turn", "scratch"), "fp32"),
}


def crop_launch(size: int, operations: dict[str, Any], packed: bool, dtype: str = "bf16") -> Launch:
    """Put together from the kernel's names: what is no pointer here is a number that 16 does not divide."""
    from multicrop_aug._triton import tile_of
    from multicrop_aug._triton_kernel import render_crops

    tile = tile_of(size, blurred=operations["BLURRED"])
    warps = {name: tile.pop(name) for name in ("num_warps", "num_stages") if name in tile}
    kind = {"STRIDE_C": 1 if packed else size * size, "SIZE": size, "CUBIC": False, "PACKED": packed}
    strides = {
        "out_c": 1 if packed else size * size,
        "out_y": 3 * size if packed else size,
        "out_x": 3 if packed else 1,
    }
    given = {**kind, "INDEXED": not packed, **operations, **tile, **strides, "out": Pointer(dtype)}
    floats = dict.fromkeys(("threshold", "mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b"), 0.5)
    arguments = {}
    for name in render_crops.arg_names:
        pointer = Pointer(CROP_TYPES[name]) if name in CROP_TYPES else 37
        arguments[name] = given.get(name, floats.get(name, pointer))
    return Launch(render_crops, arguments, warps)


def check(launch: Launch, capability: int) -> Usage:
    """Fails where registers spill, or where a kernel starts on another device than that of its tensors."""
    assert launch.guarded, f"{launch.kernel.__name__}: launch it under torch.cuda.device_of"
    usage = compiled(launch, capability)
    names = {name: value for name, value in launch.arguments.items() if name.isupper()}
    assert usage.spilled <= MOST_SPILLED, f"{launch.kernel.__name__} sm_{capability} {names} {launch.options}: {usage}"
    return usage


def grid(kernels: str) -> Iterator[tuple[str, Launch]]:
    """(size, launch) of every kernel at every size."""
    if kernels == "sinkhorn":
        for k in PROTOTYPES:
            for dtype in (torch.float32, torch.bfloat16):
                for transport in (False, True):
                    yield from ((f"K = {k}", launch) for launch in sinkhorn_launches(k, dtype, transport))
    elif kernels == "nearest":
        for dim in DIMENSIONS:
            yield from ((f"D = {dim}", launch) for launch in nearest_launches(dim))
    else:
        for size in CROP_SIZES:
            for operations in (PLAIN, SWAV, ODC, BLURRED):
                for packed in (False, True):
                    yield f"{size} pixels", crop_launch(size, operations, packed)


@pytest.mark.parametrize("k", [3000, 10000])
def test_sinkhorn_kernels(k: int) -> None:
    for launch in sinkhorn_launches(k, torch.bfloat16, transport=False):
        check(launch, 90)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_3000_prototypes_are_read_16_bytes_at_a_time(dtype: torch.dtype) -> None:
    """16 does not divide 3000, so Triton does not see by itself that 8 does."""
    for launch in sinkhorn_launches(3000, dtype, transport=False):
        usage = compiled(launch, 90)
        assert usage.wide == usage.loads > 0, launch.kernel.__name__


@pytest.mark.parametrize("dim", [128, 129])
def test_nearest_kernel(dim: int) -> None:
    (launch,) = nearest_launches(dim)
    check(launch, 90)


@pytest.mark.parametrize(("size", "operations"), [(96, SWAV), (224, BLURRED)], ids=["swav", "blur"])
def test_crop_kernel(size: int, operations: dict[str, Any]) -> None:
    check(crop_launch(size, operations, packed=False), 90)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernels", ["sinkhorn", "nearest", "crops"])
def test_every_kernel_at_every_size(kernels: str, capability: int) -> None:
    for _, launch in grid(kernels):
        check(launch, capability)


if __name__ == "__main__":
    print("The most that any variant of a kernel takes (dtypes, first and later iterations, orders of operations).\n")
    print("| kernel | size | warps |", *(f"registers, bytes spilled, shared on sm_{c} |" for c in CAPABILITIES))
    print("| --- " * 5 + "|")
    for kernels in ("sinkhorn", "nearest", "crops"):
        rows: dict[tuple[str, str], list[Launch]] = {}
        for size, launch in grid(kernels):
            rows.setdefault((launch.kernel.__name__, size), []).append(launch)
        for name, variants in rows.items():
            usages = [[check(launch, capability) for launch in variants] for capability in CAPABILITIES]
            warps = "/".join(str(n) for n in sorted({usage.warps for usage in usages[0]}))
            figures = (zip(*((u.registers, u.spilled, u.shared) for u in found), strict=True) for found in usages)
            most = (", ".join(str(max(values)) for values in three) for three in figures)
            print("|", " | ".join((*name, warps, *most)), "|")
