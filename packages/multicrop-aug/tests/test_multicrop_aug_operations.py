"""The table of operations, and that its readers agree with it."""

import inspect

import pytest
from multicrop_aug import CropGroup
from multicrop_aug._cpu_operations import apply
from multicrop_aug._operations import BY_NAME, DRAWS, OPERATIONS, PLACE, TENSORS
from multicrop_aug._torch_operations import APPLY


def test_every_tensor_has_random_fields_of_its_own() -> None:
    assert (*TENSORS, "interpolation") == tuple(CropGroup.__dataclass_fields__)[1:]
    assert sorted([*PLACE, *(draw.tensor for draw in DRAWS)]) == sorted(TENSORS)
    fields = [draw.first_field + i for draw in DRAWS for i in range(draw.n_fields)]
    assert sorted(fields) == list(range(40, 40 + len(fields)))


def test_numbers_of_operations_never_change() -> None:
    assert OPERATIONS[:6] == ("flip", "rotation", "jitter", "grey", "blur", "solarise")
    assert tuple(BY_NAME) == OPERATIONS


def test_backends_take_the_tensors_in_their_order() -> None:
    assert set(APPLY) == set(OPERATIONS) - {"flip"}
    cpu = list(inspect.signature(apply.py_func).parameters)[4:]  # after operation, crop, row, threshold
    for parameter, tensor in zip(cpu, TENSORS[len(PLACE) :], strict=True):
        assert parameter.startswith(tensor)
    pytest.importorskip("triton")
    from multicrop_aug._triton_kernel import render_crops as kernel

    first = kernel.arg_names.index("box")
    assert kernel.arg_names[first : first + len(TENSORS)] == ["turn" if t == "angle" else t for t in TENSORS]
