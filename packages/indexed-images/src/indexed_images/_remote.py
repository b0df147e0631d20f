"""Archives in object storage (s3://, gs://, https://, whatever fsspec opens): each is copied to the local disk once.

Images are read in random order, again in every epoch, and by every loader process: a range request for each would be
slower than any disk and paid for one by one. So what a run needs of the network is over before its first step."""

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_AT_ONCE = 8  # copies: one stream of an object store does not fill a network
_SPARE = 1 << 30  # bytes of the disk that stay free


class Archive(NamedTuple):
    """A tar file: the address that names it, and where it lies on the disk."""

    address: str
    path: str


def is_remote(pattern: str) -> bool:
    return "://" in pattern


def cache_folder() -> Path:
    """INDEXED_IMAGES_CACHE, or ~/.cache/indexed-images."""
    return Path(os.environ.get("INDEXED_IMAGES_CACHE") or Path.home() / ".cache" / "indexed-images") / "remote"


def local_copies(patterns: list[str]) -> list[Archive]:
    """Copies of all files that the URLs name (`*`, `?` and `[...]` are matched), fetched unless they are here already.

    A file that has changed since is fetched anew. Several processes may ask at once: one fetches, the others wait.
    Raises FileNotFoundError for a URL that matches nothing, ValueError for a scheme that fsspec or an absent library
    does not open, OSError where the network or the disk fails; no half copy is ever taken for a whole one."""
    remote = [found for pattern in patterns for found in _find(pattern)]
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    copies = [Archive(url, str(folder / _name(fs, path, info))) for fs, path, url, info in remote]
    absent = [(at, copy) for at, copy in zip(remote, copies, strict=True) if not os.path.exists(copy.path)]
    n_bytes = sum(at[3]["size"] for at, _ in absent)
    if n_bytes + _SPARE > (free := shutil.disk_usage(folder).free):
        raise OSError(
            f"{len(absent):,} files of {absent[0][1].address} and others take {n_bytes / 1e9:,.1f} GB, {folder} has "
            f"{free / 1e9:,.1f} GB free: name a larger disk in INDEXED_IMAGES_CACHE"
        )
    said = _Progress(len(absent), n_bytes)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [pool.submit(_fetch, fs, path, info["size"], copy, said) for (fs, path, _, info), copy in absent]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            said.close()
    return copies


def _find(pattern: str) -> list[tuple[Any, str, str, dict[str, Any]]]:
    """(file system, path in it, URL, what the file system says of it) of each file, sorted by path."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot open {pattern!r}: {error}") from error
    cause = ""
    try:
        paths = sorted(fs.glob(path)) if any(c in path for c in "*?[") else [path]
        found = [(fs, p, fs.unstrip_protocol(p), fs.info(p)) for p in paths]
    except FileNotFoundError as error:  # of an https server that cannot be reached, too
        found, cause = [], f" ({_line(error.__cause__)})" if error.__cause__ else ""
    except Exception as error:  # each store raises errors of its own library
        raise OSError(f"cannot list {pattern}: {_line(error)}") from error
    found = [at for at in found if at[3].get("type", "file") == "file"]
    if not found:
        raise FileNotFoundError(f"no tar file {pattern!r}{cause}: write tar:URL, with * or {{000..012}} for shards")
    if sizeless := [url for _, _, url, info in found if not isinstance(info.get("size"), int)]:
        raise OSError(f"{sizeless[0]}: the server does not say how large it is, so no copy could be checked")
    return found


def _name(fs: Any, path: str, info: dict[str, Any]) -> str:
    about = f"{fs.unstrip_protocol(path)} {info['size']} {fs.ukey(path)}"
    return hashlib.sha256(about.encode()).hexdigest()[:32] + ".tar"


def _fetch(fs: Any, path: str, size: int, copy: Archive, said: "_Progress") -> None:
    part = copy.path + ".part"
    with _alone(copy.path + ".lock"):
        if os.path.exists(copy.path):  # another process has fetched it meanwhile
            said.add(size)
            return
        try:
            fs.get_file(path, part)
            if (got := os.path.getsize(part)) != size:
                raise OSError(f"{got:,} bytes came, expected {size:,}")
            os.replace(part, copy.path)
        except Exception as error:
            raise OSError(f"cannot fetch {copy.address}: {_line(error)}") from error
        finally:
            Path(part).unlink(missing_ok=True)
    said.add(size)


@contextmanager
def _alone(lock: str) -> Iterator[None]:
    """One process at a time; the system lets go of the lock of a process that dies. The empty file stays: another
    process may be waiting at it."""
    import fcntl  # not on Windows, where local archives must open all the same

    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Progress:
    """A line on a terminal; nothing in a log file."""

    def __init__(self, n_files: int, n_bytes: int) -> None:
        self._left, self._n_files, self._n_bytes = n_files, n_files, n_bytes
        self._done, self._lock = 0, threading.Lock()
        self._shown = n_files > 0 and sys.stderr.isatty()
        self._show()

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self._left, self._done = self._left - 1, self._done + n_bytes
            self._show()

    def _show(self) -> None:
        if self._shown:
            done = f"{self._n_files - self._left:,} of {self._n_files:,} archives"
            size = f"{self._done / 1e9:,.1f} of {self._n_bytes / 1e9:,.1f} GB"
            print(f"\rfetching to {cache_folder()}: {done}, {size}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._shown:
            print(file=sys.stderr)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
