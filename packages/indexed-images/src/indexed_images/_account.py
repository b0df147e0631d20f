"""An account of the files and folders of a source that were passed over."""

from collections import Counter

from ._decode import EXTENSIONS

_THUMBNAILS = ("@eadir", ".thumbnails", ".thumbs")
_SYSTEM = (
    *("$recycle.bin", "#recycle", "@recycle", "recycler", "lost+found", "system volume information"),
    *("#snapshot", "@snapshot", "__macosx", "@tmp", "@sharebin"),
)
_ADVICE = {
    ".heic": "install pillow-heif",
    ".heif": "install pillow-heif",
    ".avif": "install Pillow 11.3 or later",
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "convert camera raw files"),
    **dict.fromkeys((".jp2", ".jxl", ".psd", ".svg", ".exr", ".dcm"), "convert it to PNG or TIFF"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"), "archives are not opened"),
}
_KINDS = 8  # extensions that are named; more of them are counted together


class Account:
    """Counts what is passed over, for one line."""

    def __init__(self) -> None:
        self.extensions: Counter[str] = Counter()
        self.thumbnails: Counter[str] = Counter()
        self.system: Counter[str] = Counter()
        self.hidden = self.links = 0
        self.empty: list[str] = []

    def takes_file(self, name: str) -> bool:
        """Return whether a file is an image by its name, and count it otherwise."""
        if name.startswith("."):
            self.hidden += 1
        elif name.lower().endswith(EXTENSIONS):
            return True
        else:
            self.extensions[_suffix(name)] += 1
        return False

    def takes_folder(self, name: str) -> bool:
        """Return whether a folder is a person's own, and count it otherwise."""
        if name.lower() in _THUMBNAILS:
            self.thumbnails[name] += 1
        elif name.lower() in _SYSTEM or name.startswith("."):
            self.system[name] += 1
        else:
            return True
        return False

    def line(self) -> str | None:
        """Return one line on all that was passed over; None if there was nothing."""
        parts = []
        common = sorted(self.extensions.items(), key=lambda item: (-item[1], item[0]))[:_KINDS]
        for suffix, n in common:
            parts.append(f"{n:,} {suffix}" + (f" ({_ADVICE[suffix]})" if suffix in _ADVICE else ""))
        if others := self.extensions.total() - sum(n for _, n in common):
            parts.append(f"{others:,} files of other kinds")
        for what, names in (("of thumbnails", self.thumbnails), ("of the system", self.system)):
            if names:
                parts.append(f"{_many(names.total(), 'folder')} {what} ({', '.join(sorted(names)[:3])})")
        if self.hidden:
            parts.append(_many(self.hidden, "hidden file"))
        if self.links:
            parts.append(f"{_many(self.links, 'link')} to a folder that was read already")
        said = [f"passed over {', '.join(parts)}"] if parts else []
        if self.empty:
            rest = f" and {len(self.empty) - 3:,} more" if len(self.empty) > 3 else ""
            said.append(f"no image in {', '.join(self.empty[:3])}{rest}")
        return "; ".join(said) or None


def _suffix(name: str) -> str:
    _, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and suffix else "without extension"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' if n != 1 else ''}"
