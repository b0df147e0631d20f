"""The source `folder:`, image files on disk."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ._account import Account
from ._decode import EXTENSIONS
from ._layout import Found, Layout, images_of, understand
from ._source import FileSource, NoSuchSplit, Request


def open_folder(request: Request) -> FileSource:
    """Open `folder:PATH`. `_layout.py` says what is a split, a class and a wrapper."""
    root = Path(request.arg).expanduser()
    if not request.arg or not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}: write folder:PATH with an existing folder")
    account = Account()
    try:
        layout = understand(DiskFolder(str(root), account))
    except ValueError as error:
        raise ValueError(f"folder {str(root)!r}: {error}") from None
    split = chosen_split(layout, request, f"folder {str(root)!r}", "put the images in subfolders train/ and val/")
    found = images_of(layout, split)
    if not found.images:
        raise FileNotFoundError(_nothing_in(root, account))
    labels, class_names, remark = found.labelling
    return FileSource(found.images, labels, class_names, request.reading, found.notes.plus(remark, account.line()))


def chosen_split(layout: Layout, request: Request, what: str, hint: str) -> str:
    """Return the key of the layout's splits that is asked for, or raise an error that names what there is."""
    split = layout.choose(request.split)
    if split is not None:
        return split
    there = ", ".join(layout.places.values())
    if request.split == "train":
        raise ValueError(f"{what} holds {there} but no train/: open one of them alone, or name one train/")
    raise NoSuchSplit(f"{what} has no split {request.split!r}, only {there or repr('train')}: {hint}")


class DiskFolder:
    """A folder on disk, as `_layout.py` wants it. Links are followed; hidden and system folders are passed over."""

    def __init__(self, path: str, account: Account) -> None:
        self.path, self.name = path, os.path.basename(path.rstrip("/"))
        self._account = account

    @cached_property
    def _listing(self) -> tuple[list[str], list[str]]:
        """Names of the subfolders and of the images, sorted."""
        folders, images = [], []
        quiet = Account()  # what is passed over is counted when images are listed, and once only
        for entry in _entries(self.path):
            if _is_folder(entry):
                if quiet.takes_folder(entry.name) and not _leads_up(entry.path, self.path):
                    folders.append(entry.name)
            elif quiet.takes_file(entry.name):
                images.append(entry.name)
        return sorted(folders), sorted(images)

    def images_here(self) -> list[str]:
        return self._listing[1]

    @cached_property
    def _folders(self) -> list["DiskFolder"]:
        below = [DiskFolder(os.path.join(self.path, name), self._account) for name in self._listing[0]]
        return [folder for folder in below if next(_walk(folder.path, Account()), None) is not None]

    def folders(self) -> list["DiskFolder"]:
        return self._folders

    def pass_over(self, kept: set[str]) -> None:
        for entry in _entries(self.path):
            if not _is_folder(entry):
                self._account.takes_file(entry.name)
            elif entry.name not in kept and self._account.takes_folder(entry.name):
                for _ in _walk(entry.path, self._account):
                    pass

    def images(self) -> list[Found]:
        account = self._account
        holding = {folder.name for folder in self._folders}
        account.empty += [f"{name}/" for name in self._listing[0] if name not in holding]
        return [Found(parts, os.path.join(self.path, *parts)) for parts in sorted(_walk(self.path, account))]


def _walk(root: str, account: Account) -> Iterator[tuple[str, ...]]:
    """Yield the parts of every image's path below root. Links are followed, but each folder is visited once."""
    seen: set[str] = set()
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        above = waiting.pop()
        folder = os.path.join(root, *above)
        real = os.path.realpath(folder)
        if real in seen:
            account.links += 1
            continue
        seen.add(real)
        below = []
        for entry in _entries(folder):
            if _is_folder(entry):
                if account.takes_folder(entry.name):
                    below.append((*above, entry.name))
            elif account.takes_file(entry.name):
                yield (*above, entry.name)
        waiting += sorted(below, reverse=True)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        why = error.strerror or str(error)
        raise type(error)(
            f"cannot read folder {folder!r} ({why}), and its images would be missing: make it readable or move it away"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _leads_up(path: str, folder: str) -> bool:
    """Tell whether a path is a link to `folder` or to a folder that holds it."""
    if not os.path.islink(path):
        return False
    real = os.path.realpath(path)
    return os.path.commonpath([real, os.path.realpath(folder)]) == real


def _nothing_in(folder: Path, account: Account) -> str:
    said = account.line()
    return f"no image in {str(folder)!r}: {said or 'the folder is empty'} (known extensions: {' '.join(EXTENSIONS)})"
