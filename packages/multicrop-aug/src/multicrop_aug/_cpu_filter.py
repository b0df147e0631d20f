"""Rotation and Gaussian blur of one crop, x (3, S, S) float32, in place."""

import math

import numpy as np

from ._cpu_jit import jit

U = np.uint64
TRUNCATE = 4.0  # a kernel reaches this many sigmas, rounded to a pixel (scipy's default); 6e-5 of the mass lies outside
_BLOCK = U(1024)  # sums that stay in the first cache while the taps are added


@jit
def blur(x, sigma):  # type: ignore[no-untyped-def]
    """Separable; borders repeat the edge pixel, as PIL does.

    Both directions are one loop over a padded plane: towards the next pixel and towards the next row. The ends of rows
    then hold sums across the border, which are computed for nothing and left out.
    """
    reach = int(TRUNCATE * sigma + 0.5)
    if reach == 0:
        return
    weights = np.empty(reach + 1, np.float32)  # from the outermost tap to the middle
    total = 0.0
    for k in range(reach + 1):
        weights[k] = math.exp(-0.5 * ((k - reach) / sigma) ** 2)
        total += weights[k] * (2 if k < reach else 1)
    for k in range(reach + 1):
        weights[k] /= total

    size = x.shape[1]
    width = size + 2 * reach
    padded, across = np.empty((size, width), np.float32), np.empty((width, width), np.float32)
    padded_flat, across_flat = padded.reshape(-1), across.reshape(-1)
    n = U(size * width - 2 * reach)
    for c in range(3):
        for y in range(size):
            for i in range(size):
                padded[y, reach + i] = x[c, y, i]
            for i in range(reach):
                padded[y, i] = x[c, y, 0]
                padded[y, reach + size + i] = x[c, y, size - 1]
        symmetric_sum(padded_flat, U(1), weights, across_flat, U(reach * width), n)
        for i in range(size):
            top, bottom = across[reach, i], across[reach + size - 1, i]
            for y in range(reach):
                across[y, i] = top
                across[reach + size + y, i] = bottom
        symmetric_sum(across_flat, U(width), weights, padded_flat, U(0), n)
        for y in range(size):
            for i in range(size):
                x[c, y, i] = padded[y, i]


@jit
def symmetric_sum(source, step, weights, into, at, n):  # type: ignore[no-untyped-def]
    """into[at + i] = sum over k of weights[k] (source[i + k step] + source[i + (2 reach - k) step]), i < n.

    weights: reach + 1 of them, the last is the middle's, which counts once.
    """
    reach = U(len(weights) - 1)
    for begin in range(U(0), n, _BLOCK):
        stop = min(begin + _BLOCK, n)
        middle, weight = reach * step, weights[reach]
        for i in range(begin, stop):
            into[at + i] = weight * source[i + middle]
        k = reach & U(1)
        if k:
            far, weight = U(2) * reach * step, weights[0]
            for i in range(begin, stop):
                into[at + i] += weight * (source[i] + source[i + far])
        while k < reach:
            a, b = k * step, (U(2) * reach - k) * step
            c, d = a + step, b - step
            outer, inner = weights[k], weights[k + U(1)]
            for i in range(begin, stop):
                into[at + i] += outer * (source[i + a] + source[i + b]) + inner * (source[i + c] + source[i + d])
            k += U(2)


@jit
def rotate(x, degrees):  # type: ignore[no-untyped-def]
    """Turned counter-clockwise about the centre, nearest pixel, zeros outside: RandomRotation's defaults."""
    size = x.shape[1]
    cos = np.float32(math.cos(math.radians(np.float64(degrees))))
    sin = np.float32(math.sin(math.radians(np.float64(degrees))))
    half, n = np.float32(0.5) * np.float32(size), np.float32(size)
    source = x.copy()
    for i in range(size):
        v = np.float32(2 * i + 1 - size) / n
        for j in range(size):
            # coordinates in [-1, 1] as in torch's affine grid, then in pixels, so that roundings agree with torch's
            u = np.float32(2 * j + 1 - size) / n
            row = int(np.rint((sin * u + cos * v + np.float32(1)) * half - np.float32(0.5)))
            column = int(np.rint((cos * u - sin * v + np.float32(1)) * half - np.float32(0.5)))
            inside = 0 <= row < size and 0 <= column < size
            for c in range(3):
                x[c, i, j] = source[c, row, column] if inside else np.float32(0)
