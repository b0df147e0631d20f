"""Alignment and uniformity on the unit sphere (Wang & Isola 2020, arXiv:2005.10242)."""

import math

import torch
import torch.nn.functional as F

from ._arrays import Array
from ._neighbours import as_rows

_ROWS = 1024


@torch.no_grad()
def alignment(z1: Array, z2: Array, alpha: float = 2.0) -> float:
    """Mean of |z1_i - z2_i|^alpha over pairs of unit-length rows: 0 if both crops of each image agree, at most 2^alpha.

    Rows are normalised in float32 and summed in float64.

    Args:
        z1: Embeddings (N, D) of one crop of each image, any float dtype.
        z2: Embeddings (N, D) of another crop of the same images.
        alpha: Exponent.

    Returns:
        The alignment loss; lower is better aligned.

    Raises:
        ValueError: If shapes differ, or a row contains NaN or infinity.
    """
    z1 = as_rows(z1, "z1")
    z2 = as_rows(z2, "z2")
    if z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have one shape, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    distance = torch.linalg.vector_norm(F.normalize(z1.float(), dim=1) - F.normalize(z2.float(), dim=1), dim=1)
    return float(distance.double().pow(alpha).mean())


@torch.no_grad()
def uniformity(z: Array, t: float = 2.0) -> float:
    """Log of the mean of exp(-t |z_i - z_j|^2) over pairs i < j of unit-length rows.

    Rows are normalised in float32 and summed in float64, over all N^2 / 2 pairs, 4 MiB of them at a time.

    Args:
        z: Embeddings (N, D), any float dtype, N >= 2.
        t: Scale of the Gaussian kernel.

    Returns:
        The uniformity loss, in [-4 t, 0]: 0 if all rows are one point, lower is more uniform.

    Raises:
        ValueError: If there are fewer than two rows, or a row contains NaN or infinity.
    """
    z = as_rows(z, "z")
    if len(z) < 2:
        raise ValueError("uniformity needs at least 2 rows, got 1")
    z = F.normalize(z.float(), dim=1)
    n, total = len(z), 0.0
    with torch.autocast(z.device.type, enabled=False):
        for i in range(0, n, _ROWS):
            for j in range(i, n, _ROWS):
                squared = (2 - 2 * z[i : i + _ROWS] @ z[j : j + _ROWS].T).clamp_(min=0)
                kernel = squared.mul_(-t).exp_()
                total += float((kernel.triu_(1) if i == j else kernel).sum(dtype=torch.float64))
    return math.log(total / (n * (n - 1) / 2))
