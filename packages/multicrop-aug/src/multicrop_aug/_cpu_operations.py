"""The operations of the `cpu` backend on one crop (3, S, S) float32 in [0, 1], in place.

Each equals torchvision.transforms.v2.functional on float images to float32 rounding. Positions in memory are unsigned
(`U`), because a signed index costs a test of its sign.
"""

import math

import numpy as np

from ._cpu_jit import jit, jit_free_sums
from ._operations import NUMBER_OF

ROTATION, JITTER, GREY, BLUR, SOLARISE = (
    NUMBER_OF[name] for name in ("rotation", "jitter", "grey", "blur", "solarise")
)
RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)  # torchvision's luma; sums to 0.9999
ZERO, ONE = np.float32(0), np.float32(1)
TINY = np.finfo(np.float32).tiny
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

U = np.uint64
TRUNCATE = 4.0  # a kernel reaches this many sigmas, rounded to a pixel (scipy's default); 6e-5 of the mass lies outside
_BLOCK = U(1024)  # sums that stay in the first cache while the taps are added


@jit
def apply(  # type: ignore[no-untyped-def]
    operation, crop, row, threshold,
    flip, angle, jittered, factors, jitter_order, greyed, blurred, sigma, solarised,
):  # fmt: skip
    """Apply one operation, by its number, to a crop if it drew it.

    The parameters after threshold are the tensors of a CropGroup after PLACE, in order, flattened to (N,) or (N, n);
    row is the crop's. The flip is done with the cut. It commutes with all operations but rotation, whose angle has the
    sign for that.
    """
    if operation == ROTATION:
        if angle[row] != 0:
            rotate(crop, angle[row])
    elif operation == BLUR:
        if blurred[row]:
            blur(crop, sigma[row])
    else:
        flat = crop.reshape(3, crop.shape[1] * crop.shape[2])
        if operation == JITTER:
            if jittered[row]:
                jitter(flat, factors[row], jitter_order[row])
        elif operation == GREY:
            if greyed[row]:
                grey(flat)
        elif operation == SOLARISE and solarised[row]:
            solarise(flat, threshold)


@jit
def jitter(x, factors, order):  # type: ignore[no-untyped-def]
    """Apply brightness, contrast, saturation and hue in the given order; neutral factors are skipped."""
    for operation in order:
        factor = factors[operation]
        if operation == HUE:
            if factor != ZERO:
                shift_hue(x, factor)
        elif factor != ONE:
            if operation == BRIGHTNESS:
                blend_with_level(x, factor, ZERO)
            elif operation == CONTRAST:
                blend_with_level(x, factor, (ONE - factor) * np.float32(mean_luma(x)))
            else:
                blend_with_grey(x, factor)


@jit
def blend_with_level(x, factor, level):  # type: ignore[no-untyped-def]
    """Set x to clamp(factor x + level): brightness and contrast."""
    flat = x.reshape(-1)
    for i in range(len(flat)):
        flat[i] = min(max(factor * flat[i] + level, ZERO), ONE)


@jit_free_sums
def mean_luma(x):  # type: ignore[no-untyped-def]
    """Return the mean of the grey image, summed in float32 over runs of 1024 pixels and in float64 over the runs."""
    red, green, blue = x[0], x[1], x[2]
    total = np.float64(0)
    for first in range(0, len(red), 1024):
        r, g, b = red[first : first + 1024], green[first : first + 1024], blue[first : first + 1024]
        part = ZERO
        for i in range(len(r)):
            part += RED * r[i] + GREEN * g[i] + BLUE * b[i]
        total += part
    return total / len(red)


@jit
def blend_with_grey(x, factor):  # type: ignore[no-untyped-def]
    """Set x to clamp(factor x + (1 - factor) grey): saturation."""
    red, green, blue = x[0], x[1], x[2]
    rest = ONE - factor
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        grey = rest * (RED * r + GREEN * g + BLUE * b)
        red[i] = min(max(factor * r + grey, ZERO), ONE)
        green[i] = min(max(factor * g + grey, ZERO), ONE)
        blue[i] = min(max(factor * b + grey, ZERO), ONE)


@jit
def shift_hue(x, turns):  # type: ignore[no-untyped-def]
    """Shift the hue by `turns` in [-0.5, 0.5]; grey pixels do not change.

    This is the usual way through HSV without its case distinctions, so that the loop vectorises. With channels scaled
    to [0, 1] per pixel, r' = (r - min) / (max - min), the hue is 1 - r' + g' + b' sixths of a turn away from red,
    towards green if g > b, else towards blue. The way back: a channel whose pure hue is c gets
    min + (max - min) clamp(2 - |h - c|, 0, 1), where h - c is taken round the circle.
    """
    red, green, blue = x[0], x[1], x[2]
    sixths = np.float32(6) * turns
    one_sixth = np.float32(1 / 6)
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        low = min(min(r, g), b)
        spread = max(max(r, g), b) - low
        from_red = ((g - r) + (b - low)) / max(spread, TINY) + ONE
        hue = (from_red if g >= b else -from_red) + sixths
        hue -= np.float32(6) * np.rint(hue * one_sixth)  # in [-3, 3]
        red[i] = low + spread * purity(hue)
        green[i] = low + spread * purity(hue - np.float32(2))
        blue[i] = low + spread * purity(hue + np.float32(2))


@jit
def purity(a):  # type: ignore[no-untyped-def]
    """Return clamp(2 - |a|, 0, 1), with |a| taken round the circle, for a in sixths of a turn, in [-5, 5]."""
    # 3 - | |a| - 3 | is the distance round the circle
    return min(max(np.float32(abs(np.float32(abs(a)) - np.float32(3))) - ONE, ZERO), ONE)


@jit
def grey(x):  # type: ignore[no-untyped-def]
    """Set all three channels to the luma."""
    red, green, blue = x[0], x[1], x[2]
    for i in range(len(red)):
        red[i] = green[i] = blue[i] = RED * red[i] + GREEN * green[i] + BLUE * blue[i]


@jit
def solarise(x, threshold):  # type: ignore[no-untyped-def]
    """Invert values at or above the threshold."""
    flat = x.reshape(-1)
    for i in range(len(flat)):
        flat[i] = ONE - flat[i] if flat[i] >= threshold else flat[i]


@jit
def blur(x, sigma):  # type: ignore[no-untyped-def]
    """Apply a separable Gaussian blur; borders repeat the edge pixel, as in PIL.

    Both directions use one loop over a padded plane, with a step of one pixel or of one row. Near the ends of rows this
    also computes sums across the border, which are ignored.
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
    """Set into[at + i], i < n, to the sum over k of weights[k] (source[i + k step] + source[i + (2 reach - k) step]).

    There are reach + 1 weights. The last one belongs to the middle tap, which counts once.
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
    """Rotate counter-clockwise about the centre, nearest pixel, zeros outside, as RandomRotation does by default."""
    size = x.shape[1]
    cos = np.float32(math.cos(math.radians(np.float64(degrees))))
    sin = np.float32(math.sin(math.radians(np.float64(degrees))))
    half, n = np.float32(0.5) * np.float32(size), np.float32(size)
    source = x.copy()
    for i in range(size):
        v = np.float32(2 * i + 1 - size) / n
        for j in range(size):
            # through coordinates in [-1, 1], as in torch's affine grid, so that roundings agree with torch's
            u = np.float32(2 * j + 1 - size) / n
            row = int(np.rint((sin * u + cos * v + np.float32(1)) * half - np.float32(0.5)))
            column = int(np.rint((cos * u - sin * v + np.float32(1)) * half - np.float32(0.5)))
            inside = 0 <= row < size and 0 <= column < size
            for c in range(3):
                x[c, i, j] = source[c, row, column] if inside else np.float32(0)


@jit
def normalise(x, mean, std):  # type: ignore[no-untyped-def]
    """Set x to (x - mean) / std per channel."""
    for c in range(3):
        plane, m, s = x[c], mean[c], ONE / std[c]
        for i in range(len(plane)):
            plane[i] = (plane[i] - m) * s
