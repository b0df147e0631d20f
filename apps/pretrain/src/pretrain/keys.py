"""Random choices as pure functions of keys: no global generator is read or seeded here."""

import hashlib

import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """A 63-bit seed out of any keys, e.g. `key(seed, "order", epoch)`; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(key(*parts))


def permutation(n: int, *parts: int | str) -> Tensor:
    return torch.randperm(n, generator=generator(*parts))


def with_replacement(n: int, n_draws: int, *parts: int | str) -> Tensor:
    return torch.randint(n, (n_draws,), generator=generator(*parts))
