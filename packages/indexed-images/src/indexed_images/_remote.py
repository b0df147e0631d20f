"""Archives in object storage (s3://, gs://, https://, or any other address that fsspec opens), copied to disk once.

Training reads images in random order, in every epoch and from every loader process. A range request per image would be
slower than any disk and cost money each. So all network traffic happens before the first step.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ._progress import Progress

_AT_ONCE = 8  # parallel copies: one stream of an object store does not saturate a network
SPARE = 1 << 30  # bytes of the disk to leave free


class Archive(NamedTuple):
    """A tar file: the address that names it, and its path on disk."""

    address: str
    path: str


def is_remote(pattern: str) -> bool:
    return "://" in pattern


def cache_folder() -> Path:
    """Return the folder of copies, below INDEXED_IMAGES_CACHE or ~/.cache/indexed-images."""
    return Path(os.environ.get("INDEXED_IMAGES_CACHE") or Path.home() / ".cache" / "indexed-images") / "remote"


def local_copies(patterns: list[str]) -> list[Archive]:
    """Return local copies of all files that the URLs match (with `*`, `?` and `[...]`), after fetching missing ones.

    A file that has changed since its copy was made is fetched again. Several processes may call this at once: one
    fetches a file and the others wait for it. An incomplete copy is never used.

    Raises FileNotFoundError for a URL that matches nothing, ValueError for a scheme that fsspec does not know or whose
    library is not installed, and OSError if the network or the disk fails.
    """
    remote = [found for pattern in patterns for found in _find(pattern)]
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    copies = [Archive(url, str(folder / _name(fs, path, info))) for fs, path, url, info in remote]
    absent = [(at, copy) for at, copy in zip(remote, copies, strict=True) if not os.path.exists(copy.path)]
    n_bytes = sum(at[3]["size"] for at, _ in absent)
    if n_bytes + SPARE > (free := shutil.disk_usage(folder).free):
        raise OSError(
            f"{len(absent):,} files of {absent[0][1].address} and others take {n_bytes / 1e9:,.1f} GB, {folder} has "
            f"{free / 1e9:,.1f} GB free: name a larger disk in INDEXED_IMAGES_CACHE"
        )
    progress = Progress(str(folder), len(absent), n_bytes)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [pool.submit(_fetch, fs, path, info["size"], copy, progress) for (fs, path, _, info), copy in absent]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            progress.close()
    return copies


def _find(pattern: str) -> list[tuple[Any, str, str, dict[str, Any]]]:
    """Return (file system, path in it, URL, file system's info) of each file that matches, sorted by path."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot open {pattern!r}: {error}") from error
    cause = ""
    try:
        paths = sorted(fs.glob(path)) if any(c in path for c in "*?[") else [path]
        found = [(fs, p, fs.unstrip_protocol(p), fs.info(p)) for p in paths]
    except FileNotFoundError as error:  # also raised if an https server cannot be reached
        found, cause = [], f" ({_line(error.__cause__)})" if error.__cause__ else ""
    except Exception as error:  # every store's library has its own errors
        raise OSError(f"cannot list {pattern}: {_line(error)}") from error
    found = [at for at in found if at[3].get("type", "file") == "file"]
    if not found:
        raise FileNotFoundError(f"no tar file {pattern!r}{cause}: write tar:URL, with * or {{000..012}} for shards")
    if sizeless := [url for _, _, url, info in found if not isinstance(info.get("size"), int)]:
        raise OSError(f"{sizeless[0]}: the server does not report its size, so a copy could not be checked")
    return found


def _name(fs: Any, path: str, info: dict[str, Any]) -> str:
    """Name a copy by a hash of address, size and change tag, so that a changed file gets another copy."""
    about = f"{fs.unstrip_protocol(path)} {info['size']} {fs.ukey(path)}"
    return hashlib.sha256(about.encode()).hexdigest()[:32] + ".tar"


def _fetch(fs: Any, path: str, size: int, copy: Archive, progress: Progress) -> None:
    part = copy.path + ".part"
    with alone(copy.path + ".lock"):
        if os.path.exists(copy.path):  # another process has fetched it in the meantime
            progress.add(size)
            return
        try:
            fs.get_file(path, part)
            if (got := os.path.getsize(part)) != size:
                raise OSError(f"received {got:,} bytes, expected {size:,}")
            os.replace(part, copy.path)
        except Exception as error:
            raise OSError(f"cannot fetch {copy.address}: {_line(error)}") from error
        finally:
            Path(part).unlink(missing_ok=True)
    progress.add(size)


@contextmanager
def alone(lock: str) -> Iterator[None]:
    """Hold a file lock, which the system releases if the process dies.

    The empty lock file is not removed, because another process may be waiting for it.
    """
    import fcntl  # imported here because Windows lacks it, and local archives must open there, too

    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
