"""A plan goes to a device in one buffer and one copy, and is not checked there. `meta` stands in for a GPU."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multicrop_aug import CropPlan, PackedImages, odc, render, swav
from multicrop_aug._move import _filled, _starts, _views, moved
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = [torch.int64, torch.int32, torch.float32, torch.uint8, torch.bool]
SWAV = swav(12, small_size=6, rotation_degrees=5.0)


class Copies(TorchDispatchMode):
    """Counts the copies from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.device.type != "cpu" and not any_elsewhere(args):
            self.counts[func._schema.name] += 1
        return out


def any_elsewhere(args: Any) -> bool:
    return any(isinstance(t, Tensor) and t.device.type != "cpu" for t in torch.utils._pytree.tree_leaves(args))


def storages(tensors: list[Tensor]) -> set[int]:
    return {t.untyped_storage()._cdata for t in tensors}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=8), st.booleans())
def test_what_is_packed_comes_out_aligned(kinds: list[tuple[torch.dtype, list[int]]], transposed: bool) -> None:
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randint(0, 100, shape, generator=g).to(dtype) for dtype, shape in kinds]
    tensors = [t.mT if transposed and t.ndim > 1 else t for t in tensors]
    starts, n_bytes = _starts(tensors)
    buffer = _filled(tensors, starts, n_bytes)
    for view, tensor in zip(_views(buffer, tensors, starts), tensors, strict=True):
        assert view.dtype == tensor.dtype
        assert torch.equal(view, tensor)
        assert view.is_contiguous()
        assert view.storage_offset() * view.element_size() % 16 == 0


def test_those_that_are_there_stay_as_they_are() -> None:
    here, there = torch.arange(3), torch.empty(3, device="meta")
    assert moved([here], "cpu")[0] is here
    crossed, same = moved([here, there], "meta")
    assert same is there
    assert (crossed.device.type, crossed.dtype, crossed.shape) == ("meta", torch.int64, (3,))


def test_what_comes_back_to_the_cpu_is_waited_for() -> None:
    class OnAGpu:
        device = torch.device("cuda")

        def to(self, device: torch.device, non_blocking: bool) -> Tensor:
            assert not non_blocking
            return torch.arange(2, device=device)

    assert moved([OnAGpu()], "cpu", non_blocking=True)[0].tolist() == [0, 1]  # type: ignore[list-item]


@pytest.mark.parametrize("pack", [False, True])
def test_a_plan_and_its_rows_cross_in_one_copy_without_wait(pack: bool) -> None:
    """Meta tensors have no data, so reading a value would fail."""
    images = torch.empty(9, 3, 20, 20, dtype=torch.uint8)
    there = PackedImages.pack(list(images)).to("meta") if pack else images.to("meta")
    rows = torch.tensor([8, 0, 1])
    plan = SWAV.draw(rows, 0, (20, 20), seed=0)
    with Copies() as copies:
        plan_there = plan.to("meta")
    assert copies.counts == {"aten::_to_copy": 1}
    assert len(storages(plan_there.tensors())) == 1
    assert [(t.shape, t.dtype) for t in plan_there.tensors()] == [(t.shape, t.dtype) for t in plan.tensors()]

    with Copies() as crossing:
        crops = render(there, plan, rows=rows)
    rows = rows.to("meta")
    with Copies() as staying:
        assert [crop.shape for crop in render(there, plan_there, rows=rows)] == [crop.shape for crop in crops]
    assert [crop.shape for crop in crops] == [(3, 3, 12, 12)] * 2 + [(3, 3, 6, 6)] * 6
    assert staying.counts["aten::_to_copy"] == 0
    crossing.counts.subtract(staying.counts)  # without the tensors that the backend creates on the device
    assert +crossing.counts == {"aten::_to_copy": 1}


def wrong_plan(name: str, at: tuple[int, ...], value: list[int]) -> CropPlan:
    plan = odc(8).draw(torch.arange(3), 0, (10, 12), seed=0)
    getattr(plan.groups[0], name)[at] = torch.tensor(value, dtype=getattr(plan.groups[0], name).dtype)
    return plan


FAR = 2**31 - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("box", [-1, 0, 5, 5]),
        ("box", [0, 0, 0, 5]),
        ("box", [0, 8, 5, 5]),
        ("box", [0, 0, 11, 5]),
        ("box", [FAR, 0, FAR, 5]),
        ("box", [0, 0, -FAR - 1, 5]),
        ("resized", [7, 8]),
        ("offset", [0, 1]),
        ("offset", [-1, 0]),
        ("jitter_order", [0, 1, 2, 4]),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_changed_plan_is_refused_before_it_crosses(name: str, value: list[int], device: str) -> None:
    plan = wrong_plan(name, (0, 1), value)
    with pytest.raises(ValueError, match="outside of its image"):
        render(torch.zeros(3, 3, 10, 12, dtype=torch.uint8, device=device), plan, "torch")


def test_sizes_are_compared_without_asking_a_device() -> None:
    plan, rows = odc(8).draw(torch.arange(2), 0, (10, 12), seed=0), torch.zeros(2, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match="other sizes"):
        render(torch.zeros(5, 3, 10, 11, dtype=torch.uint8, device="meta"), plan, rows=rows)
    packed = PackedImages.pack([torch.zeros(3, 10, 11, dtype=torch.uint8)] * 2).to("meta")
    with pytest.raises(ValueError, match="other sizes"):
        render(packed, plan)


def test_an_empty_batch_crosses() -> None:
    plan = SWAV.draw(torch.arange(0), 0, (20, 20), seed=0)
    crops = render(torch.empty(0, 3, 20, 20, dtype=torch.uint8, device="meta"), plan)
    assert [crop.shape for crop in crops] == [(0, 3, 12, 12)] * 2 + [(0, 3, 6, 6)] * 6
