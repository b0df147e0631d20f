"""Find every ResNet in a checkpoint by the structure of its names, whatever containers and prefixes are around it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
_TRUNK = re.compile(r"(conv|bn|layer)\d+\.")
_STEM = re.compile(r"(|.*?\.)(?:layer1\.0\.)?conv1\.weight")
_SEQUENTIAL = re.compile(r"((?:.*\.)?)0\.weight")
_LAYER = re.compile(r"(?:^|(?<=\.))layer1\.")
_PLACE = re.compile(r"((?:.*\.)?)\d+\.0\.conv1\.weight")
_TRANSFORMERS = re.compile(r"((?:.*\.)?)embedder\.embedder\.convolution\.weight")
_COPY_WORDS = "ema momentum teacher target average averaged avg swa slow shadow key polyak moving offline"
_COPIES = frozenset(_COPY_WORDS.split())
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
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

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts the usual containers first."""
        return tuple(_CONTAINERS.index(key) if key in _CONTAINERS else len(_CONTAINERS) for key in self.path)


@dataclass(frozen=True)
class Search:
    """What the search found: the networks, all tensors by their full names, and whether it stopped before the end."""

    candidates: list[Candidate]
    tensors: dict[str, Tensor]
    faults: list[str]
    cut: bool


def is_copy_name(label: str) -> bool:
    """Tell whether a prefix is that of a slow copy: encoder_k., momentum_backbone., state_dict_ema., modelTeacher."""
    return any(word.lower() in _COPIES for word in _WORD.findall(label)) or _LETTER.search(label) is not None


def search(content: dict[Any, Any]) -> Search:
    """Find the networks in all nested containers except the state of optimisers."""
    candidates: list[Candidate] = []
    tensors: dict[str, Tensor] = {}
    faults: list[str] = []
    cut = False
    n_seen = 0
    todo: list[tuple[tuple[str, ...], dict[Any, Any], tuple[str, ...]]] = [((), content, ())]
    while todo and len(candidates) < _MAX_CANDIDATES:
        path, mapping, heads = todo.pop(0)
        n_seen += 1
        here = {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}
        tensors |= {"".join(f"{part}." for part in path) + key: value for key, value in here.items()}
        candidates.extend(_in_mapping(path, here, heads, faults))
        for key, inner in mapping.items():
            if not isinstance(inner, dict) or not (isinstance(key, str) or len(mapping) == 1) or "optim" in str(key):
                continue
            if len(path) == MAX_DEPTH or n_seen + len(todo) >= _MAX_CONTAINERS:
                cut = True
                continue
            beside = mapping.get("heads") if key == "trunk" else None  # VISSL keeps heads beside the trunk
            names = tuple(f"heads.{name}" for name in beside) if isinstance(beside, dict) else ()
            todo.append(((*path, str(key)), inner, names))
    return Search(candidates, tensors, faults, cut or bool(todo))


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
    with_layers = {key[: found.start()] for key in short for found in _LAYER.finditer(key)}
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
