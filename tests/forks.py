"""Runs in a forked process: it can be killed, run out of disk or lose its folder, and costs no import of torch."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed import TCPStore

CLONE_NEWNS = 0x20000  # unshare(2)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 0x4000, 1 << 18  # mount(2)

_libc = ctypes.CDLL(None, use_errno=True)


def forked(work: Callable[[], int], errors: Path) -> int:
    """Exit code of `work` in a child whose stderr goes to the file `errors`; 99 if it raised."""
    return _wait(_start(work, Path(os.devnull), errors, {}))


class Ranks(NamedTuple):
    """What the processes of one run ended with, by rank."""

    codes: list[int]
    out: list[str]
    errors: list[str]


def forked_ranks(
    n: int, work: Callable[[], int], folder: Path, store: TCPStore | None = None, timeout: float = 300
) -> Ranks:
    """`work` in n processes that find what torchrun would have told them; a second instead of ten, which n
    interpreters take to import torch. Their output goes to files in `folder`; `store` is torchrun's, if it has one."""
    folder.mkdir(exist_ok=True)
    port = _free_port() if store is None else store.port
    files = [(folder / f"out{rank}", folder / f"errors{rank}") for rank in range(n)]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    told |= {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0, "GROUP_RANK": 0}
    told |= {"TORCHELASTIC_USE_AGENT_STORE": store is not None}
    children = [_start(work, *files[rank], told | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(n)]
    codes = [_wait(child, timeout) for child in children]
    return Ranks(codes, [out.read_text() for out, _ in files], [errors.read_text() for _, errors in files])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start(work: Callable[[], int], out: Path, errors: Path, environment: dict[str, object]) -> int:
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.environ.update({name: str(value) for name, value in environment.items()})
        sys.stdout, sys.stderr = out.open("w", buffering=1), errors.open("w", buffering=1)
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        torch.set_num_threads(1)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # wherever its streams led, the child must not go on as a second pytest
            os._exit(code)


def _wait(child: int, timeout: float = 300) -> int:
    """Its exit code; a child that takes longer is killed."""
    deadline = time.monotonic() + timeout
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def own_disk(at: Path, n_bytes: int) -> None:
    """A file system of n_bytes in memory at folder `at`, which only this process sees. Raises OSError without root."""
    if _libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _mount(b"tmpfs", os.fsencode(at), b"tmpfs", 0, f"size={n_bytes}".encode())


def read_only(at: Path) -> None:
    """Turn the disk at `at` read-only for this process; files open for writing stay so."""
    _mount(os.fsencode(at), os.fsencode(at), None, MS_BIND, None)
    _mount(b"none", os.fsencode(at), None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)


def _mount(*arguments: object) -> None:
    if _libc.mount(*arguments):
        raise OSError(ctypes.get_errno(), "mount")


def _can_have_own_disk() -> bool:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        own_disk(Path("/tmp"), 4096)
        os._exit(0)
    finally:
        os._exit(1)


CAN_HAVE_OWN_DISK = sys.platform == "linux" and os.geteuid() == 0 and _can_have_own_disk()
