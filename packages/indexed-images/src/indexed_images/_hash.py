"""Counter-based random numbers: pure functions of (seed, stream, index, field), equal on every machine."""

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_STRIDE = 0xD1B54A32D192ED03
_MASK = (1 << 64) - 1


def mix(x: np.ndarray) -> np.ndarray:
    """Apply one step of SplitMix64 to uint64 of any shape (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195)."""
    x = x + np.uint64(_GAMMA)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(seed: int, stream: int, indices: np.ndarray) -> np.ndarray:
    """Return one uint64 key per index, (n,)."""
    root = mix(mix(np.array([seed & _MASK], dtype=np.uint64)) ^ np.uint64(stream))
    return mix(root ^ indices.astype(np.uint64))


def hash64(keys: np.ndarray, field: int | np.ndarray) -> np.ndarray:
    """Return uint64 in the broadcast shape of keys and field; different fields are independent."""
    return mix(keys + np.asarray(field, dtype=np.uint64).reshape(np.shape(field) or (1,)) * np.uint64(_STRIDE))


def uniform(keys: np.ndarray, field: int | np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Return float64 in [low, high), in the broadcast shape of keys and field."""
    return low + (high - low) * ((hash64(keys, field) >> np.uint64(11)).astype(np.float64) * 2.0**-53)
