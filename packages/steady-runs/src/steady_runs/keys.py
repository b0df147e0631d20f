"""Random choices as pure functions of keys. No global generator is read or seeded."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """Hash any keys, such as `key(seed, "order", epoch)`, to a 63-bit seed. Different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `key(*parts)`."""
    return torch.Generator().manual_seed(key(*parts))


def permutation(n: int, *parts: int | str) -> Tensor:
    """A random order of 0 ... n - 1, (n,) int64."""
    return torch.randperm(n, generator=generator(*parts))


def with_replacement(n: int, n_draws: int, *parts: int | str) -> Tensor:
    """`n_draws` independent draws from 0 ... n - 1, (n_draws,) int64."""
    return torch.randint(n, (n_draws,), generator=generator(*parts))
