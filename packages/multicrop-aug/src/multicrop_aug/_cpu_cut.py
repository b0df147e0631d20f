"""Cuts, resizes (antialiased), windows and flips one crop, from uint8 pixels directly to float32 planes.

Positions in memory are unsigned (`U`) and arrays are flat. A signed index costs a test of its sign, and slicing an
array costs reference counting. Either takes longer here than the arithmetic.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._cpu_jit import jit
from ._cpu_memory import CHANNEL_STEP, PIXEL_STEP, ROW_STEP, START

U = np.uint64
ZERO, ONE = np.float32(0), np.float32(1)
UNIT = ONE / np.float32(255)


@jit
def triangle(x):  # type: ignore[no-untyped-def]
    """Evaluate the bilinear filter."""
    return max(ONE - np.float32(abs(x)), ZERO)


@jit
def keys_cubic(x):  # type: ignore[no-untyped-def]
    """Evaluate the bicubic filter with a = -0.5 (Keys 1981), which PIL and torch use for antialiased resizing."""
    x = np.float32(abs(x))
    if x < ONE:
        return (np.float32(1.5) * x - np.float32(2.5)) * x * x + ONE
    if x < np.float32(2):
        return ((np.float32(-0.5) * x + np.float32(2.5)) * x - np.float32(4)) * x + np.float32(2)
    return ZERO


@jit
def axis_filter(length, resized, offset, flip, size, cubic):  # type: ignore[no-untyped-def]
    """Return the resize of one axis as first (size,), weights (size * taps,) and taps, in pixels of the box.

    Target pixel i is at offset + i of the resized box, counted from the far end of the window if flipped. Its weights
    sum to 1. first + taps never exceeds the box: a filter that would is moved back and gets leading zeros.

    Precisions are those of torch's interpolate(antialias=True), so that the same pixels get the same weights. In a box
    of thousands of pixels, the last bit of a float32 position is a ten-thousandth of a pixel.
    """
    scale = np.float32(np.float32(length) / np.float32(resized))
    stretch = max(scale, ONE)
    support = np.float32(2) * stretch if cubic else stretch
    shrink = np.float32(ONE / stretch)
    room = min(length, 2 * math.ceil(support) + 1)
    first, counts = np.empty(size, np.int64), np.empty(size, np.int64)
    taps = 1
    for i in range(size):
        centre = np.float32(np.float64(scale) * ((offset + i) + 0.5))
        start = max(int(np.float64(np.float32(centre - support)) + 0.5), 0)
        stop = min(int(np.float64(np.float32(centre + support)) + 0.5), length)
        first[i], counts[i] = start, max(min(stop - start, room), 1)
        taps = max(taps, counts[i])

    positions, weights = np.empty(size, U), np.zeros(size * taps, np.float32)
    for i in range(size):
        centre = np.float32(np.float64(scale) * ((offset + i) + 0.5))
        target = size - 1 - i if flip else i
        start = min(first[i], length - taps)
        at = target * taps + first[i] - start
        total = ZERO
        for k in range(counts[i]):
            x = np.float32(np.float64(np.float32(np.float32(first[i] + k) - centre)) + 0.5) * shrink
            weight = keys_cubic(x) if cubic else triangle(x)
            weights[at + k] = weight
            total += weight
        inverse = ONE / total
        for k in range(counts[i]):
            weights[at + k] *= inverse
        positions[target] = U(start)
    return positions, weights, U(taps)


@jit
def cut(pixels, layout, place, flip, cubic, out):  # type: ignore[no-untyped-def]
    """Write one crop in [0, 1] to out (3, S, S) float32.

    Rows are summed first: their bytes are adjacent in every layout, so this vectorises, and only rows of the window are
    computed. A summed row then stays in cache while its columns are summed.

    Args:
        pixels: Flat uint8 memory.
        layout: A row of _cpu_memory.Memory.layouts.
        place: Top, left, height, width of the box; height, width it is resized to; top, left of the window.
        flip: Whether to flip horizontally.
        cubic: Whether to interpolate bicubically.
        out: The crop.
    """
    size = out.shape[1]
    height, width = place[2], place[3]
    rows, row_weights, n_rows = axis_filter(height, place[4], place[6], False, size, cubic)
    columns, column_weights, n_columns = axis_filter(width, place[5], place[7], flip, size, cubic)
    for i in range(len(row_weights)):
        row_weights[i] *= UNIT

    row_step, channel_step, interleaved = U(layout[ROW_STEP]), U(layout[CHANNEL_STEP]), layout[PIXEL_STEP] == 3
    first = U(layout[START] + place[0] * layout[ROW_STEP] + place[1] * layout[PIXEL_STEP])
    length = U(width)
    summed, flat = np.empty(3 * width, np.float32), out.reshape(-1)
    plane, into = U(size) * U(size), U(0)
    step, channel = (U(3), U(1)) if interleaved else (U(1), length)
    for y in range(U(size)):
        source, weights_at = first + rows[y] * row_step, y * n_rows
        if interleaved:
            sum_rows(pixels, source, row_step, row_weights, weights_at, n_rows, summed, U(0), U(3) * length)
        else:
            for c in range(U(3)):
                at = source + c * channel_step
                sum_rows(pixels, at, row_step, row_weights, weights_at, n_rows, summed, c * length, length)
        if n_columns == U(2):
            sum_columns_2(summed, step, channel, columns, column_weights, n_columns, flat, into, plane)
        elif n_columns == U(3):
            sum_columns_3(summed, step, channel, columns, column_weights, n_columns, flat, into, plane)
        elif n_columns == U(4):
            sum_columns_4(summed, step, channel, columns, column_weights, n_columns, flat, into, plane)
        else:
            sum_columns(summed, step, channel, columns, column_weights, n_columns, flat, into, plane)
        into += U(size)
    if cubic:
        for i in range(len(flat)):
            flat[i] = min(max(flat[i], ZERO), ONE)


@jit
def sum_rows(pixels, row, row_step, weights, at, taps, into, first, length):  # type: ignore[no-untyped-def]
    """Set into[first:][:length] to the weighted sum of `taps` rows of bytes from `row` on, two at a time."""
    a = weights[at]
    if taps == U(1):
        for x in range(length):
            into[first + x] = a * pixels[row + x]
        return
    b, next_row = weights[at + U(1)], row + row_step
    for x in range(length):
        into[first + x] = a * pixels[row + x] + b * pixels[next_row + x]
    k = U(2)
    while k < taps:
        row = next_row + row_step
        next_row = row + row_step
        a = weights[at + k]
        if k + U(1) < taps:
            b = weights[at + k + U(1)]
            for x in range(length):
                into[first + x] += a * pixels[row + x] + b * pixels[next_row + x]
        else:
            for x in range(length):
                into[first + x] += a * pixels[row + x]
        k += U(2)


def _columns_summer(n_taps: int) -> Callable[..., Any]:
    """Return `sum_columns` for a fixed number of taps, which the compiler unrolls: twice as fast. 0: any number."""
    known = U(n_taps)

    @jit
    def sum_columns(summed, step, channel, first, weights, taps, into, at, plane):  # type: ignore[no-untyped-def]
        """Compute one row of a crop, three channels, as weighted sums of `taps` pixels of a summed row."""
        if known:
            taps = known
        green_at, blue_at, second_channel = at + plane, at + plane + plane, channel + channel
        k = U(0)
        for x in range(U(len(first))):
            p = first[x] * step
            red = green = blue = ZERO
            for _ in range(taps):
                weight = weights[k]
                red += weight * summed[p]
                green += weight * summed[p + channel]
                blue += weight * summed[p + second_channel]
                p += step
                k += U(1)
            into[at + x], into[green_at + x], into[blue_at + x] = red, green, blue

    return sum_columns


sum_columns, sum_columns_2, sum_columns_3, sum_columns_4 = (_columns_summer(n) for n in (0, 2, 3, 4))
