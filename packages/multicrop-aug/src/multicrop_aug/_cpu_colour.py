"""Colour operations on one crop, x (3, n) float32 in [0, 1], in place.

Each equals torchvision.transforms.v2.functional on float images to float32 rounding.
"""

import numpy as np

from ._cpu_jit import jit, jit_free_sums

RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)  # torchvision's luma; sums to 0.9999
ZERO, ONE = np.float32(0), np.float32(1)
TINY = np.finfo(np.float32).tiny
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@jit
def jitter(x, factors, order):  # type: ignore[no-untyped-def]
    """Brightness, contrast, saturation and hue in the order given; a neutral factor changes nothing."""
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
    """clamp(factor x + level): brightness and contrast."""
    flat = x.reshape(-1)
    for i in range(len(flat)):
        flat[i] = min(max(factor * flat[i] + level, ZERO), ONE)


@jit_free_sums
def mean_luma(x):  # type: ignore[no-untyped-def]
    """The mean of the grey image, summed in float32 over stretches of 1024 pixels and in float64 over these."""
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
    """clamp(factor x + (1 - factor) grey): saturation."""
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
    """Hue moved by `turns` in [-0.5, 0.5]; grey pixels stay as they are.

    HSV without its case distinctions, so that the loop vectorises. With channels scaled to [0, 1] per pixel,
    r' = (r - min) / (max - min), the hue lies 1 - r' + g' + b' sixths of a turn from red, towards green if g > b, else
    towards blue. Back again, the channel whose pure hue is c is min + (max - min) clamp(2 - |h - c|, 0, 1), the
    difference taken round the circle.
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
    """clamp(2 - |a| round the circle, 0, 1), a in sixths of a turn, in [-5, 5]."""
    # 3 - | |a| - 3 | is the way round the circle
    return min(max(np.float32(abs(np.float32(abs(a)) - np.float32(3))) - ONE, ZERO), ONE)


@jit
def grey(x):  # type: ignore[no-untyped-def]
    """Three equal channels."""
    red, green, blue = x[0], x[1], x[2]
    for i in range(len(red)):
        red[i] = green[i] = blue[i] = RED * red[i] + GREEN * green[i] + BLUE * blue[i]


@jit
def solarise(x, threshold):  # type: ignore[no-untyped-def]
    """Values at or above the threshold inverted."""
    flat = x.reshape(-1)
    for i in range(len(flat)):
        flat[i] = ONE - flat[i] if flat[i] >= threshold else flat[i]


@jit
def normalise(x, mean, std):  # type: ignore[no-untyped-def]
    """(x - mean) / std per channel."""
    for c in range(3):
        plane, m, s = x[c], mean[c], ONE / std[c]
        for i in range(len(plane)):
            plane[i] = (plane[i] - m) * s
