"""The table of operations, and that those who read it agree with it."""

import pytest
from multicrop_aug import CropGroup
from multicrop_aug._cpu_kernel import render_crops
from multicrop_aug._operations import BY_NAME, DRAWS, OPERATIONS
from multicrop_aug._torch import _APPLY

PLACE = ["box", "resized", "offset"]
TENSORS = [name for name in CropGroup.__dataclass_fields__ if name not in ("size", "interpolation")]


def test_every_tensor_of_a_plan_is_drawn_once_from_fields_of_its_own() -> None:
    assert sorted([*PLACE, *(draw.tensor for draw in DRAWS)]) == sorted(TENSORS)
    fields = [draw.first_field + i for draw in DRAWS for i in range(draw.n_fields)]
    assert sorted(fields) == list(range(40, 52))


def test_backends_know_every_operation_and_take_tensors_in_their_order() -> None:
    assert OPERATIONS == ("flip", "rotation", "jitter", "grey", "blur", "solarise") == tuple(BY_NAME)
    assert set(_APPLY) == set(OPERATIONS) - {"flip"}
    cpu = render_crops.py_func.__code__.co_varnames[3:]  # after rows, pixels, layouts
    for parameter, tensor in zip(cpu, ["place", *TENSORS[3:]], strict=False):
        assert parameter.startswith(tensor)
    pytest.importorskip("triton")
    from multicrop_aug._triton_kernel import render_crops as kernel

    first = kernel.arg_names.index("box")
    assert kernel.arg_names[first : first + len(TENSORS)] == ["turn" if t == "angle" else t for t in TENSORS]
