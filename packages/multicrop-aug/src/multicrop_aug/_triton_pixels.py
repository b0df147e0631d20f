"""Triton functions that read a tile of pixels of a crop, resized or blurred, and functions on colours.

Positions y and x broadcast against each other: (R, 1) and (1, C) for an upright tile, both (R, C) for a rotated one.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

LUMA_RED, LUMA_GREEN, LUMA_BLUE = tl.constexpr(0.2989), tl.constexpr(0.587), tl.constexpr(0.114)


@triton.jit
def _round(x):
    """Round half to even, for |x| < 2^22. The compiler may not reorder these additions, so they stay."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _filter(x, CUBIC: tl.constexpr):
    """Evaluate the triangle, or Keys' cubic with a = -0.5: the filters of PIL and torch's antialiased interpolate."""
    x = tl.abs(x)
    if CUBIC:
        near = (1.5 * x - 2.5) * x * x + 1.0
        far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
        return tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))
    return tl.maximum(1.0 - x, 0.0)


@triton.jit
def _taps(position, length, resized, CUBIC: tl.constexpr):
    """Return for each target position its centre and first tap in source pixels, the number of taps, and 1 / width."""
    scale = length.to(tl.float32) / resized.to(tl.float32)
    width = tl.maximum(scale, 1.0)
    support = 2.0 * width if CUBIC else width
    centre = (position.to(tl.float32) + 0.5) * scale
    first = tl.floor(centre - support + 0.5).to(tl.int32)
    return centre, first, tl.ceil(2.0 * support).to(tl.int32), 1.0 / width


@triton.jit
def _tap(centre, first, t, length, narrowing, CUBIC: tl.constexpr):
    """Return tap number t of each position, moved into the box, and its weight, which is 0 if it was outside."""
    source = first + t
    inside = tl.minimum(tl.maximum(source, 0), length - 1)
    weight = _filter((source.to(tl.float32) + 0.5 - centre) * narrowing, CUBIC)
    return inside, tl.where(source == inside, weight, 0.0)


@triton.jit
def resized_tile(
    image, stride_y, stride_x, y, x, top, left, height, width, resized_h, resized_w, STRIDE_C: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CUBIC: tl.constexpr,
):  # fmt: skip
    """Return the antialiased resize of the box at target positions y, x, in [0, 1].

    It reads every source pixel under the filter, instead of two passes over rows and columns. Crops are about as large
    as their boxes, so there are only two to four taps per axis.
    """
    centre_y, first_y, n_y, narrowing_y = _taps(y, height, resized_h, CUBIC)
    centre_x, first_x, n_x, narrowing_x = _taps(x, width, resized_w, CUBIC)
    sum_y, sum_x = centre_y * 0.0, centre_x * 0.0
    for t in range(n_x):
        _, weight_x = _tap(centre_x, first_x, t, width, narrowing_x, CUBIC)
        sum_x += weight_x
    red = tl.zeros([ROWS, COLUMNS], tl.float32)
    green = tl.zeros([ROWS, COLUMNS], tl.float32)
    blue = tl.zeros([ROWS, COLUMNS], tl.float32)
    for i in range(n_y):
        source_y, weight_y = _tap(centre_y, first_y, i, height, narrowing_y, CUBIC)
        sum_y += weight_y
        row = (top + source_y) * stride_y
        for j in range(n_x):
            source_x, weight_x = _tap(centre_x, first_x, j, width, narrowing_x, CUBIC)
            pixel = image + (row + (left + source_x) * stride_x)
            weight = weight_y * weight_x
            red += weight * tl.load(pixel).to(tl.float32)
            green += weight * tl.load(pixel + STRIDE_C).to(tl.float32)
            blue += weight * tl.load(pixel + 2 * STRIDE_C).to(tl.float32)
    share = (1.0 / (255.0 * sum_y)) * (1.0 / sum_x)
    red, green, blue = red * share, green * share, blue * share
    if CUBIC:  # the cubic overshoots
        red, green, blue = _clamp(red), _clamp(green), _clamp(blue)
    return red, green, blue


@triton.jit
def blurred_tile(crop, y0, y, x, sigma, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the Gaussian blur of an upright tile of crop (3, SIZE, SIZE) float32; edge pixels are repeated.

    Each source row is blurred horizontally once and added to every row of the tile.
    """
    reach = tl.minimum(tl.floor(4.0 * sigma + 0.5), 4.0 * SIZE).to(tl.int32)
    rate = -0.5 / (sigma * sigma)
    total = rate * 0.0
    for d in range(-reach, reach + 1):
        total += tl.exp(rate * d * d)
    red = tl.zeros([ROWS, COLUMNS], tl.float32)
    green = tl.zeros([ROWS, COLUMNS], tl.float32)
    blue = tl.zeros([ROWS, COLUMNS], tl.float32)
    for source in range(y0 - reach, y0 + ROWS + reach):
        row = crop + tl.minimum(tl.maximum(source, 0), SIZE - 1) * SIZE
        row_red, row_green, row_blue = _blurred_row(row, x, reach, rate, SIZE, COLUMNS)
        away = y - source
        weight = tl.where(tl.abs(away) <= reach, tl.exp(rate * (away * away).to(tl.float32)), 0.0)
        red += weight * row_red
        green += weight * row_green
        blue += weight * row_blue
    share = 1.0 / (total * total)
    return red * share, green * share, blue * share


@triton.jit
def _blurred_row(row, x, reach, rate, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    red = tl.zeros([1, COLUMNS], tl.float32)
    green = tl.zeros([1, COLUMNS], tl.float32)
    blue = tl.zeros([1, COLUMNS], tl.float32)
    for d in range(-reach, reach + 1):
        weight = tl.exp(rate * d * d)
        pixel = row + tl.minimum(tl.maximum(x + d, 0), SIZE - 1)
        red += weight * tl.load(pixel)
        green += weight * tl.load(pixel + SIZE * SIZE)
        blue += weight * tl.load(pixel + 2 * SIZE * SIZE)
    return red, green, blue


@triton.jit
def turned_blurred_tile(crop, y, x, sigma, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Compute `blurred_tile` at any positions (ROWS, COLUMNS), for a rotation that comes after the blur."""
    reach = tl.minimum(tl.floor(4.0 * sigma + 0.5), 4.0 * SIZE).to(tl.int32)
    rate = -0.5 / (sigma * sigma)
    total = rate * 0.0
    red = tl.zeros([ROWS, COLUMNS], tl.float32)
    green = tl.zeros([ROWS, COLUMNS], tl.float32)
    blue = tl.zeros([ROWS, COLUMNS], tl.float32)
    for i in range(-reach, reach + 1):
        row = crop + tl.minimum(tl.maximum(y + i, 0), SIZE - 1) * SIZE
        for j in range(-reach, reach + 1):
            weight = tl.exp(rate * i * i + rate * j * j)
            total += weight
            pixel = row + tl.minimum(tl.maximum(x + j, 0), SIZE - 1)
            red += weight * tl.load(pixel)
            green += weight * tl.load(pixel + SIZE * SIZE)
            blue += weight * tl.load(pixel + 2 * SIZE * SIZE)
    return red / total, green / total, blue / total


@triton.jit
def _clamp(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def luma(red, green, blue):
    """Return the luma with torchvision's weights."""
    return LUMA_RED * red + LUMA_GREEN * green + LUMA_BLUE * blue


@triton.jit
def blend(red, green, blue, factor, other):
    """Return clamp(f x + (1 - f) y); brightness, contrast and saturation differ in y."""
    rest = (1.0 - factor) * other
    return _clamp(factor * red + rest), _clamp(factor * green + rest), _clamp(factor * blue + rest)


@triton.jit
def shift_hue(red, green, blue, turns):
    """Shift the hue; `_torch_operations.shift_hue` explains the arithmetic."""
    low = tl.minimum(tl.minimum(red, green), blue)
    spread = tl.maximum(tl.maximum(red, green), blue) - low
    hue = ((green - red) + (blue - low)) / tl.maximum(spread, 1e-37) + 1.0
    hue = tl.where(green >= blue, hue, -hue) + 6.0 * turns
    hue -= 6.0 * _round(hue / 6.0)
    return (
        low + spread * _purity(hue, 0.0),
        low + spread * _purity(hue, 2.0),
        low + spread * _purity(hue, -2.0),
    )


@triton.jit
def _purity(hue, centre):
    return _clamp(tl.abs(tl.abs(hue - centre) - 3.0) - 1.0)
