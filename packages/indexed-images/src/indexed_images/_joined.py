"""Several sources as one: `folder:A+folder:B`, and patterns such as `csv:labels-*.csv`."""

import difflib
import glob
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ._decode import decode
from ._layout import few, split_of_name
from ._look import complete, look
from ._reading import Notes
from ._source import ArraySource, EncodedSource, NoSuchSplit, Request, Source
from ._vocabulary import Labelled, unite

_PATTERNS = ("folder", "list", "csv", "jsonl", "npz", "npy")  # `tar:` and `parquet:` have patterns of their own


class Part(NamedTuple):
    """A source among several: its spec, and the split of it that is wanted."""

    spec: str
    split: str


class JoinedSource(EncodedSource):
    """The images of several sources, one source after the other."""

    def __init__(self, parts: list[Source], specs: list[str], request: Request) -> None:
        labels, class_names, remark = _joined_labels(parts, specs)
        notes = [f"{spec}: {said}" for part, spec in zip(parts, specs, strict=True) for said in part.notes.remarks]
        places = list(dict.fromkeys(filter(None, (part.notes.place for part in parts))))
        super().__init__(labels, class_names, request.reading, Notes(tuple(notes), ", ".join(places)).plus(remark))
        _refuse_other_ranges(parts, specs)
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, i: int) -> tuple[Source, int]:
        which = int(np.searchsorted(self._ends, i, side="right"))
        return self.parts[which], i - (int(self._ends[which - 1]) if which else 0)

    def image(self, i: int, at_least: int | None = None) -> Tensor:
        part, i = self._find(i)
        data = part.read(i) if isinstance(part, EncodedSource) else None
        return part.image(i, at_least) if data is None else decode(data, self.reading, at_least)

    def read(self, i: int) -> bytes | None:  # type: ignore[override]  # None where a part holds arrays
        part, i = self._find(i)
        return part.read(i)

    def stamp(self) -> bytes:
        return b"".join(part.stamp() for part in self.parts)

    def name(self, i: int) -> str:
        part, i = self._find(i)
        return part.name(i)


def split_spec(spec: str, sources: Iterable[str], split: str) -> tuple[list[Part], list[str]]:
    """Return the parts that a spec joins with `+`, with patterns such as `folder:photos/*` expanded, and remarks.

    Of a pattern that matches files or folders of several splits, such as `csv:labels_*.csv`, those of `split` are
    returned, of which all images belong to it.

    Raises:
        FileNotFoundError: If a pattern matches nothing.
        NoSuchSplit: If a pattern matches other splits only.
        ValueError: If a pattern matches splits and something else, or a source after `+` is misspelt.
    """
    known = list(sources)
    remarks: list[str] = []
    joined = _joined_specs(spec, known)
    for part in joined:
        _refuse_typos(part, known)
    return [one for part in joined for one in _expanded(part, split, remarks)], remarks


def _joined_specs(spec: str, sources: list[str]) -> list[str]:
    """Return the specs between `+`. A path that is there is not taken apart."""
    pieces = re.split(rf"\+(?=(?:{'|'.join(sources)})(?::|\+|$))", spec)
    found = []
    while pieces:
        ends = range(len(pieces), 1, -1)
        n = next((k for k in ends if _is_there("+".join(pieces[:k]))), 1)
        found.append("+".join(pieces[:n]))
        del pieces[:n]
    return found


def _is_there(spec: str) -> bool:
    arg = spec.partition(":")[2]
    return bool(arg) and os.path.exists(os.path.expanduser(arg))


def _refuse_typos(spec: str, sources: list[str]) -> None:
    if "+" not in spec or _is_there(spec):
        return
    for word in re.findall(r"\+(\w+):(?!//)", spec):
        if nearest := difflib.get_close_matches(word.lower(), sources, n=1, cutoff=0.5):
            raise ValueError(f"unknown source {word!r} after + in spec {spec!r}; did you mean {nearest[0]!r}?")


def open_joined(wanted: list[Part], opener: Callable[[str], Callable[[Request], Source]], request: Request) -> Source:
    """Open each spec and join them. Specs that lack a held-out split are left out of it.

    Raises:
        NoSuchSplit: If none has the split.
    """
    parts, opened, missing = [], [], []
    for spec, split in wanted:
        try:
            part = opener(spec)(replace(request, arg=spec.partition(":")[2], split=split))
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


def _expanded(spec: str, split: str, remarks: list[str]) -> list[Part]:
    name, _, arg = spec.partition(":")
    path = os.path.expanduser(arg)
    if name not in _PATTERNS or not re.search(r"[*?\[]", arg) or os.path.exists(path):
        return [Part(spec, split)]
    found = sorted(glob.glob(path))
    if name == "folder":
        found = list(filter(os.path.isdir, found))
    if not found:
        raise FileNotFoundError(f"nothing matches {arg!r}: write {name}:PATTERN with * for existing paths")
    chosen = _of_split(found, arg, split, remarks)
    if name == "folder" and len(found) > 1 and chosen == found and not any(map(_has_folders, found)):
        above = os.path.dirname(arg.rstrip("/"))
        classes = f"folder:{above}" if above and not glob.has_magic(above) else "the folder above them"
        names = few([os.path.basename(one.rstrip("/")) for one in found])
        remarks.append(
            f"the images of {len(found):,} folders that match {arg!r} ({names}) are joined, without labels: {classes} "
            "takes the folders for classes"
        )
    return [Part(f"{name}:{one}", split if chosen == found else "train") for one in chosen]


def _has_folders(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _of_split(found: list[str], pattern: str, split: str, remarks: list[str]) -> list[str]:
    """Return the files of a split if their names are splits, else all of them."""
    of_split: dict[str | None, list[str]] = {}
    for one in found:
        of_split.setdefault(split_of_name(os.path.splitext(os.path.basename(one))[0]), []).append(one)
    if "train" not in of_split or len(of_split.keys() - {None, ""}) < 2:
        return found
    if other := of_split.get(None) or of_split.get(""):
        raise ValueError(f"{pattern!r} matches files of splits and also {other[0]!r}: name the files, joined by +")
    there = [split] if split in of_split else [s for s in ("val", "test") if split != "train" and s in of_split]
    remarks += [f"the {s} split is {', '.join(map(os.path.basename, of_split[s]))}" for s in there[:1]]
    return of_split[there[0]]


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


def _refuse_other_ranges(parts: list[Source], specs: list[str]) -> None:
    """Raise ValueError if arrays of more than 8 bits would be scaled by different ranges."""
    ranges = {part.pixel_range: spec for part, spec in zip(parts, specs, strict=True) if isinstance(part, ArraySource)}
    deep = {found: spec for found, spec in ranges.items() if found is not None and found[1] > 255}
    if len(deep) > 1:
        said = ", ".join(f"{low:g} to {high:g} in {spec}" for (low, high), spec in deep.items())
        raise ValueError(f"pixels have different ranges ({said}): name one as pixel_range (--pixel-range LOW,HIGH)")


def refuse_other_depths(source: Source) -> None:
    """Raise ValueError if files of joined sources have ranges of pixels that one range cannot serve."""
    if not isinstance(source, JoinedSource) or source.reading.pixel_range is not None:
        return
    found = {}
    for part in source.parts:
        if isinstance(part, EncodedSource):
            reading, _ = complete(part.reading, look(part, part.reading))
            if reading.pixel_range is not None:
                found[reading.pixel_range[1]] = part.name(0)
    if found and max(found) > 8 * min(found):
        said = ", ".join(f"up to {high:g} in {name} and others" for high, name in sorted(found.items()))
        raise ValueError(f"pixels have different ranges ({said}): name one as pixel_range (--pixel-range LOW,HIGH)")
