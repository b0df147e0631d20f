"""Find every ResNet in a checkpoint by the structure of its names, whatever containers and prefixes are around it."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from ._names import from_detectron2, from_sequential, from_shortcut, from_transformers, has_shortcuts, is_sequential

# Among the containers of one file, an earlier one is preferred.
_CONTAINER_NAMES = "state_dict model classy_state_dict base_model trunk model_state_dict student module"
_CONTAINERS = tuple(_CONTAINER_NAMES.split())
MAX_DEPTH = 16  # known files nest up to five containers; a pickle can hold a container that contains itself
_MAX_CONTAINERS = 10_000
_MAX_CANDIDATES = 64
_MAX_NAME = 1_000  # characters of a name that may hold a prefix
_MAX_NAMES = 10_000  # names of tensors that are kept to say what a file holds
_TRUNK = re.compile(r"(conv|bn|layer)\d+\.")
_STEM = re.compile(r"(|.*?\.)(?:layer1\.0\.)?conv1\.weight")
_SEQUENTIAL = re.compile(r"((?:.*\.)?)0\.weight")
_LAYER = re.compile(r"(?:^|(?<=\.))layer1\.")
_PLACE = re.compile(r"((?:.*\.)?)\d+\.0\.conv1\.weight")
_TRANSFORMERS = re.compile(r"((?:.*\.)?)embedder\.embedder\.convolution\.weight")
_COPY_WORDS = "ema momentum teacher target average averaged avg swa slow shadow key polyak moving offline"
_COPIES = frozenset(_COPY_WORDS.split())
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_OPTIMIZERS = frozenset(["optim", "optims", "optimizer", "optimizers", "optimiser", "optimisers"])
_IN_TRUNK = re.compile(r"(?:^|(?<=\.))(?:layer[1-4]|conv1|bn1)\.")
_WRAPPER = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_LETTER = re.compile(r"_[km](?![a-z])")  # encoder_k of MoCo, visual_encoder_m of ALBEF

Rename = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network found: where it is, its tensors by torchvision's names, and the names beside it.

    Attributes:
        path: Keys of the containers around it.
        prefix: What precedes the names in the innermost container.
        here: All tensors of the innermost container.
        dropped: Names of those that are not part of the network.
        averaged: Whether the file marks it as an average of other weights.
    """

    path: tuple[str, ...]
    prefix: str
    rename: Rename
    tensors: dict[str, Tensor]
    here: dict[str, Tensor]
    dropped: tuple[str, ...]
    averaged: bool

    @property
    def inside(self) -> dict[str, Tensor]:
        """All tensors under the prefix, by what follows it."""
        n = len(self.prefix)
        return {key[n:]: value for key, value in self.here.items() if key.startswith(self.prefix)}

    @property
    def label(self) -> str:
        """The prefix with all containers before it, such as "student.module.backbone."."""
        return "".join(f"{key}." for key in self.path) + self.prefix

    @property
    def is_copy(self) -> bool:
        """Whether this is the momentum or EMA copy of another network, judged by its name."""
        return self.averaged or is_copy_name(self.label)

    def precedes(self, other: "Candidate") -> bool:
        """Tell whether the containers are a reason to prefer this one, which depth alone is not.

        It precedes a network in a container beside its own tensors, and one whose path parts from its own at a
        container that is less usual.
        """
        for mine, theirs in zip(self.path, other.path, strict=False):
            if mine != theirs:
                return _rank(mine) < _rank(theirs)
        return len(self.path) < len(other.path)


@dataclass(frozen=True)
class Search:
    """What the search found: the networks, the full names of tensors, and whether it stopped before the end."""

    candidates: list[Candidate]
    names: list[str]
    faults: list[str]
    cut: bool


def is_copy_name(label: str) -> bool:
    """Tell whether a prefix is that of a slow copy: encoder_k., momentum_backbone., state_dict_ema., modelTeacher."""
    return any(word.lower() in _COPIES for word in _WORD.findall(label)) or _LETTER.search(label) is not None


def _rank(container: str) -> int:
    return _CONTAINERS.index(container) if container in _CONTAINERS else len(_CONTAINERS)


def _is_optimizer(container: str) -> bool:
    return any(word.lower() in _OPTIMIZERS for word in _WORD.findall(container[:_MAX_NAME]))


def search(content: dict[Any, Any]) -> Search:
    """Find the networks in all nested containers except the state of optimisers.

    A container that is in the file under several names is searched once, under the most usual of them.
    """
    candidates: list[Candidate] = []
    names: list[str] = []
    faults: list[str] = []
    cut = False
    todo: deque[tuple[tuple[str, ...], dict[Any, Any], tuple[str, ...]]] = deque([((), content, ())])
    seen = {id(content)}
    while todo and len(candidates) < _MAX_CANDIDATES:
        path, mapping, heads = todo.popleft()
        here = {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}
        outer = "".join(f"{part[:100]}." for part in path)
        names.extend(outer + key for key in islice(here, _MAX_NAMES - len(names)))
        candidates.extend(_in_mapping(path, _unwrapped(here), heads, faults))
        inside = [
            (str(key), inner)
            for key, inner in mapping.items()
            if isinstance(inner, dict) and (isinstance(key, str) or len(mapping) == 1)
        ]
        for key, inner in sorted(inside, key=lambda pair: (is_copy_name(pair[0][:_MAX_NAME]), _rank(pair[0]))):
            if id(inner) in seen or _is_optimizer(key):
                continue
            if len(path) == MAX_DEPTH or len(seen) >= _MAX_CONTAINERS:
                cut = True
                continue
            seen.add(id(inner))
            beside = mapping.get("heads") if key == "trunk" else None  # VISSL keeps heads beside the trunk
            beside = tuple(f"heads.{name}" for name in beside) if isinstance(beside, dict) else ()
            todo.append(((*path, key), inner, beside))
    return Search(candidates, names, faults, cut or bool(todo))


def _unwrapped(here: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the wrappers of torch.compile, FSDP and activation checkpointing from inside the names of a network.

    Those before a network are a part of its prefix and stay, as do all if two tensors would have the same name.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in here.items():
        found = _IN_TRUNK.search(key) if len(key) <= _MAX_NAME else None
        renamed[key[: found.end()] + _WRAPPER.sub("", key[found.end() - 1 :])[1:] if found else key] = value
    return renamed if len(renamed) == len(here) else here


def _in_mapping(
    path: tuple[str, ...], here: dict[str, Tensor], heads: tuple[str, ...], faults: list[str]
) -> Iterator[Candidate]:
    for prefix, rename in _find_names(list(here), faults).items():
        named = {key: rename(key[len(prefix) :]) for key in here if key.startswith(prefix)}
        named = {key: name for key, name in named.items() if _TRUNK.match(name)}
        dropped = tuple(sorted([*heads, *(here.keys() - named.keys())]))
        wrapped = prefix.removesuffix("module.")  # torch's AveragedModel (SWA, EMA) counts its updates beside module.
        averaged = wrapped != prefix and f"{wrapped}n_averaged" in here
        yield Candidate(path, prefix, rename, {named[k]: here[k] for k in named}, here, dropped, averaged)


def _find_names(keys: list[str], faults: list[str]) -> dict[str, Rename]:
    """Return the prefixes of networks among `keys`, each with a function that translates its names to torchvision's."""
    # Prefixed names of detectron2 are not recognised: its own models may have the stride on the 1x1 convolution.
    if "stem.conv1.weight" in keys and any(key.startswith("res2.") for key in keys):
        return {"": from_detectron2}
    short = [key for key in keys if len(key) <= _MAX_NAME]
    stems = {found[1] for found in map(_STEM.fullmatch, short) if found}  # few, while a name may hold many prefixes
    starts = (key[: found.start()] for key in short for found in _LAYER.finditer(key))
    with_layers = {prefix for prefix in starts if prefix in stems}
    with_places = {found[1] for found in map(_PLACE.fullmatch, short) if found}
    prefixes: dict[str, Rename] = {}
    for key in short:
        if len(prefixes) + len(faults) == _MAX_CANDIDATES:
            break
        if (found := _STEM.fullmatch(key)) and found[1] in with_layers and found[1] not in prefixes:
            prefix = found[1]
            names = [key[len(prefix) :] for key in short if key.startswith(prefix)]
            prefixes[prefix] = from_shortcut if has_shortcuts(names) else str
        elif found := _TRANSFORMERS.fullmatch(key):
            prefixes[found[1]] = from_transformers
        elif (found := _SEQUENTIAL.fullmatch(key)) and found[1] in with_places:
            prefix = found[1]
            try:
                if is_sequential(key[len(prefix) :] for key in short if key.startswith(prefix)):
                    prefixes[prefix] = from_sequential
            except ValueError as error:
                faults.append(str(error))
    return prefixes
