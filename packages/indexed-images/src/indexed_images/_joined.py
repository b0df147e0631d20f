"""Several sources as one: `folder:A+folder:B`, and patterns such as `csv:labels-*.csv`."""

import glob
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor

from ._decode import decode
from ._reading import Notes
from ._source import EncodedSource, NoSuchSplit, Request, Source
from ._vocabulary import Labelled, unite

_PATTERNS = ("folder", "list", "csv", "jsonl", "npz", "npy")  # `tar:` and `parquet:` have patterns of their own


class JoinedSource(EncodedSource):
    """The images of several sources, one source after the other."""

    def __init__(self, parts: list[Source], specs: list[str], request: Request) -> None:
        labels, class_names, remark = _joined_labels(parts, specs)
        notes = [f"{spec}: {said}" for part, spec in zip(parts, specs, strict=True) for said in part.notes.remarks]
        places = list(dict.fromkeys(filter(None, (part.notes.place for part in parts))))
        super().__init__(labels, class_names, request.reading, Notes(tuple(notes), ", ".join(places)).plus(remark))
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, i: int) -> tuple[Source, int]:
        which = int(np.searchsorted(self._ends, i, side="right"))
        return self._parts[which], i - (int(self._ends[which - 1]) if which else 0)

    def image(self, i: int, at_least: int | None = None) -> Tensor:
        part, i = self._find(i)
        data = part.read(i) if isinstance(part, EncodedSource) else None
        return part.image(i, at_least) if data is None else decode(data, self.reading, at_least)

    def read(self, i: int) -> bytes | None:  # type: ignore[override]  # None where a part holds arrays
        part, i = self._find(i)
        return part.read(i)

    def name(self, i: int) -> str:
        part, i = self._find(i)
        return part.name(i)


def split_spec(spec: str, sources: Iterable[str]) -> list[str]:
    """Return the specs that a spec joins with `+`, each with patterns such as `folder:photos/*` expanded.

    Raises:
        FileNotFoundError: If a pattern matches nothing.
    """
    joined = re.split(rf"\+(?=(?:{'|'.join(sources)})(?::|\+|$))", spec)
    return [one for part in joined for one in _expanded(part)]


def open_joined(specs: list[str], opener: Callable[[str], Callable[[Request], Source]], request: Request) -> Source:
    """Open each spec and join them. Specs that lack a held-out split are left out of it.

    Raises:
        NoSuchSplit: If none has the split.
    """
    parts, opened, missing = [], [], []
    for spec in specs:
        try:
            part = opener(spec)(replace(request, arg=spec.partition(":")[2]))
        except NoSuchSplit as error:
            missing.append(error)
            continue
        except (ValueError, OSError, ImportError) as error:
            raise _named(error, spec) from error
        parts.append(part)
        opened.append(spec)
    if not parts:
        raise missing[0]
    return JoinedSource(parts, opened, request)


def _named(error: Exception, spec: str) -> Exception:
    kind = next(kind for kind in (FileNotFoundError, OSError, ImportError, ValueError) if isinstance(error, kind))
    return kind(f"{spec}: {error}")


def _expanded(spec: str) -> list[str]:
    name, _, arg = spec.partition(":")
    path = os.path.expanduser(arg)
    if name not in _PATTERNS or not re.search(r"[*?\[]", arg) or os.path.exists(path):
        return [spec]
    found = sorted(glob.glob(path))
    if name == "folder":
        found = list(filter(os.path.isdir, found))
    if not found:
        raise FileNotFoundError(f"nothing matches {arg!r}: write {name}:PATTERN with * for existing paths")
    return [f"{name}:{one}" for one in found]


def _joined_labels(parts: list[Source], specs: list[str]) -> tuple[np.ndarray | None, list[str] | None, str | None]:
    labelled = [
        Labelled(part.labels, part.class_names, spec)
        for part, spec in zip(parts, specs, strict=True)
        if part.labels is not None
    ]
    if not labelled:
        return None, None, None
    if len(labelled) < len(parts):
        without = next(spec for part, spec in zip(parts, specs, strict=True) if part.labels is None)
        return None, None, f"{without} has no labels, so the joined images have none"
    labels, class_names = unite(labelled)
    return np.concatenate(labels), class_names, None
