"""Find a backbone in a foreign checkpoint: choose among the networks in it and infer the architecture."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._architecture import architecture, check_architecture
from ._candidates import MAX_DEPTH, Candidate, Search, is_copy_name, search
from ._checks import check_size
from ._files import asks_to_run_code, one_line
from ._lookalikes import lookalike, other_network
from ._names import from_detectron2, from_sequential, from_transformers
from ._resnet import LAYOUTS
from ._sobel import SobelFilter
from ._stand_ins import hides_tensors, holds_arrays

_SOBEL = re.compile(r"(?:.*\.)?sobel\.(\d+\.\w+)")
_FEATURES = re.compile(r"(?:.*\.)?features\.(?:module\.)?\d+\.weight")


@dataclass(frozen=True)
class Trunk:
    """A backbone found in a file.

    Attributes:
        tensors: Its tensors by torchvision's names.
        dropped: Names of the tensors beside it.
        family: The program that seems to have written the file.
        prefix: What precedes its names; containers are left out where all networks of the file share them.
        others: The same for the networks that were not chosen, with the fault of those that cannot be loaded.
        spare: The prefix of another network, which can be loaded, if this one cannot.
        is_copy: Whether it is the momentum or EMA copy of another network.
        lookalike: The other network that it may be, should its tensors not fit ours.
    """

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    family: str
    prefix: str
    others: tuple[str, ...]
    spare: str | None
    is_copy: bool
    lookalike: str | None


def find_trunk(content: dict[Any, Any], size: int, prefix: str | None = None) -> Trunk:
    """Return the one backbone in a file of `size` bytes, or the one under `prefix`.

    Of several, the momentum and EMA copies are left out, then those that match no architecture, then those in unusual
    containers, then second names of the same network. A copy does not stand in for a network that is damaged.

    Raises ValueError if there is none or no reason to choose one of several, if the file holds another Sobel filter
    than ours, or if a tensor of the backbone is not a dense tensor of floats.
    """
    found = search(content)
    if not found.candidates:
        raise ValueError(_nothing_found(content, found))
    shared = _shared_containers(found.candidates)
    labels = {one: one.label.removeprefix(shared) for one in found.candidates}
    faults = {one: _fault(one, size) for one in found.candidates}
    chosen = _choose(labels, faults) if prefix is None else _pick(labels, prefix)
    others = [one for one in labels if one is not chosen]
    if faults[chosen] is None:
        others = [one for one in others if one.is_copy != chosen.is_copy or faults[one] or not _is_same(one, chosen)]
    for name, value in chosen.tensors.items():
        _check_plain(chosen.prefix + name, value)
    if "conv1.weight" in chosen.tensors:
        _check_sobel(chosen.here, chosen.tensors["conv1.weight"])
    inside = {chosen.rename(name): value for name, value in chosen.inside.items()}
    return Trunk(
        chosen.tensors,
        chosen.dropped,
        _family(content, chosen),
        labels[chosen],
        tuple(
            labels[one] + (f" (not loadable: {one_line(said, 200)})" if (said := faults[one]) else "") for one in others
        ),
        next((labels[one] for one in others if faults[chosen] and not faults[one]), None),
        chosen.is_copy,
        lookalike(inside),
    )


def _shared_containers(candidates: list[Candidate]) -> str:
    """Return the containers around all candidates, up to one that is named as a copy."""
    shared = ""
    for keys in zip(*(one.path for one in candidates), strict=False):
        if len(set(keys)) > 1 or is_copy_name(keys[0]):
            break
        shared += f"{keys[0]}."
    return shared


def _choose(labels: dict[Candidate, str], faults: dict[Candidate, str | None]) -> Candidate:
    mains = [one for one in labels if not one.is_copy] or list(labels)
    pool = [one for one in mains if faults[one] is None] or mains
    pool = [one for one in pool if not any(other.precedes(one) for other in pool)]
    if len(pool) == 1:
        return pool[0]
    if all(faults[one] is None and _is_same(one, pool[0]) for one in pool):
        return next((one for one in pool if "backbone" in one.label.split(".")), pool[0])
    several = [labels[one] for one in pool]
    raise ValueError(
        f"several ResNets found, under {_some(several)}: pass load_backbone one of them, as in prefix={several[0]!r}, "
        "or save it in a file of its own"
    )


def _pick(labels: dict[Candidate, str], prefix: str) -> Candidate:
    """Return the network under a prefix, which may be any part of its containers and prefix that no other one has."""
    wanted = prefix.rstrip(".")
    names = {one: {label.rstrip("."), one.label.rstrip(".")} for one, label in labels.items()}
    found = [one for one in names if wanted in names[one]]
    if wanted and not found:
        found = [one for one in names if any(name.endswith(f".{wanted}") for name in names[one])]
    if wanted and not found:
        found = [one for one in names if f".{wanted}." in f".{one.label}"]
    if len(found) != 1:
        fault = "several ResNets" if found else "no ResNet"
        raise ValueError(f"{fault} under prefix {prefix!r}: the file has {_some(list(labels.values()), 8)}")
    return found[0]


def _fault(one: Candidate, size: int) -> str | None:
    """Return why this network cannot be loaded, or None if it can."""
    try:
        for name, value in one.tensors.items():
            _check_plain(name, value)
        check_architecture(one.tensors, architecture(one.tensors))
        check_size(one.tensors, size)
    except ValueError as error:
        return lookalike({one.rename(name): value for name, value in one.inside.items()}) or str(error)
    return None


def _is_same(one: Candidate, other: Candidate) -> bool:
    """Tell whether both names lead to equal networks, as net. and online_encoder.net. of a BYOL module do."""
    return one.tensors.keys() == other.tensors.keys() and all(
        _is_equal(value, other.tensors[name]) for name, value in one.tensors.items()
    )


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return (one.data_ptr() == other.data_ptr() and one.stride() == other.stride()) or torch.equal(one, other)


def _nothing_found(content: dict[Any, Any], found: Search) -> str:
    if found.faults:
        return found.faults[0]
    names = found.names
    if features := next(filter(_FEATURES.fullmatch, names), None):
        return (
            f"no ResNet found but an AlexNet or VGG ({features}), as the DeepCluster code of 2018 trains: "
            f"only {', '.join(LAYOUTS)} are read"
        )
    if what := other_network(names):
        return f"no ResNet found but {what}: only {', '.join(LAYOUTS)} are read"
    if name := hides_tensors(content):  # a pickled model
        return asks_to_run_code(name)
    if found.cut:
        return f"containers are nested deeper than {MAX_DEPTH}: save only the state_dict"
    if not names and holds_arrays(content):
        return "no ResNet found but NumPy arrays, as in detectron2's .pkl: save them as a state_dict of tensors"
    return (
        "no ResNet found: expected 'conv1.weight' and 'layer1.0.conv1.weight', alone or after the same prefix; "
        f"got {_some(names) or 'no tensors'}"
    )


def _check_plain(key: str, value: Tensor) -> None:
    """Raise ValueError unless this is a dense CPU tensor of floats; num_batches_tracked may hold integers."""
    if value.is_nested or value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise ValueError(f"{key} is not a dense CPU tensor: save the state_dict of the float model")
    if not value.is_floating_point() and not key.endswith("num_batches_tracked"):
        raise ValueError(f"{key} is {value.dtype}, expected floats: save the state_dict of the float model")


def _check_sobel(tensors: Mapping[str, Tensor], conv1: Tensor) -> None:
    """Raise ValueError if the file holds a Sobel layer that differs from ours.

    MMSelfSup 1.x writes such files where its weight initialisation overwrote the filter.
    """
    ours = {
        "0.weight": torch.full((1, 3, 1, 1), 1 / 3),
        "0.bias": torch.zeros(1),
        "1.weight": SobelFilter().kernels,
        "1.bias": torch.zeros(2),
    }
    for key, value in tensors.items():
        if (found := _SOBEL.fullmatch(key)) is None:
            continue
        _check_plain(key, value)
        wanted = ours.get(found[1])
        # The tolerance of 1e-3 accepts 1/3 rounded to bfloat16.
        if (
            wanted is None
            or value.shape != wanted.shape
            or not torch.allclose(value.float(), wanted, rtol=0, atol=1e-3)
        ):
            raise ValueError(
                f"{key} is not DeepCluster's Sobel filter (mean of 3 channels, then two fixed 3x3 kernels), which is "
                "the only one this package computes: the network would see other images than it was trained on"
            )
        if conv1.shape[1:2] != (2,):
            raise ValueError(f"{key} puts two channels before conv1.weight, which is {tuple(conv1.shape)}")


_FAMILIES_BY_PREFIX = {
    "_feature_blocks.": "vissl",
    "encoder_q.": "moco",
    "base_encoder.": "moco v3",
    "wrapped_model._features.": "lightly-train",
}
_FAMILIES_BY_KEY = {
    "pytorch-lightning_version": "lightning",
    "meta": "openmmlab",
    "student": "dino",
    "ds_version": "deepspeed",
}


def _family(top: dict[Any, Any], chosen: Candidate) -> str:
    """Guess the program that wrote the file; only the load report uses this."""
    renames = {from_detectron2: "detectron2", from_sequential: "lightly", from_transformers: "transformers"}
    for rename, name in renames.items():
        if chosen.rename is rename:
            return name
    if name := next((name for part, name in _FAMILIES_BY_PREFIX.items() if part in chosen.prefix), ""):
        return name
    if name := next((name for key, name in _FAMILIES_BY_KEY.items() if key in top), ""):
        return name
    return {"": "torchvision", "module.": "swav"}.get(chosen.prefix, f"prefix {chosen.prefix}")


def _some(names: list[str], n: int = 4) -> str:
    return ", ".join(map(repr, names[:n])) + (f" and {len(names) - n} more" if len(names) > n else "")
