"""Checks of the tensors in a weights file; each raises ValueError with a message that names the fault."""

from collections.abc import Mapping

from torch import Tensor


def check_size(tensors: Mapping[str, Tensor], size: int) -> None:
    """Check that the tensors fit into a file of `size` bytes: a pickle can give any shape to a single number.

    Tensors that share their storage, as tied weights do, count once. Together they may be four times as large as the
    file, since the network holds each of them.
    """
    largest: dict[int, int] = {}
    total = 0
    for value in tensors.values():
        n_bytes = value.numel() * value.element_size()
        place = value.untyped_storage().data_ptr()
        largest[place] = max(n_bytes, largest.get(place, 0))
        total += n_bytes
    claimed = max(sum(largest.values()), total // 4)
    if claimed > size:
        raise ValueError(f"tensors claim {claimed:,} bytes in a file of {size:,}: damaged or forged")


def check_match(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that names and shapes in a file are those of the network, but for num_batches_tracked."""
    missing = sorted(key for key in wanted.keys() - found.keys() if not key.endswith("num_batches_tracked"))
    unexpected = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape and not key.endswith("num_batches_tracked")
    ]
    faults = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    if said := [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in faults.items() if names]:
        raise ValueError(f"tensors do not match the ResNet they look like: {'; '.join(said)}")


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Check that no value is NaN or infinite."""
    # The sum shows most tensors to be finite in one pass. It can overflow without such a value, so then count them.
    suspects = {key: value for key, value in state.items() if not value.sum().isfinite()}
    bad = {key: n for key, value in suspects.items() if (n := int((~value.isfinite()).sum()))}
    if bad:
        first = next(iter(bad))
        raise ValueError(
            f"{len(bad)} of {len(state)} tensors hold NaN or infinity, the first is {first} ({bad[first]} of "
            f"{state[first].numel()} values): a run that diverged or a damaged file; take an earlier checkpoint"
        )
