"""The kernel: one program renders one crop, tile by tile, without storing intermediate tiles.

Contrast needs the mean luma of the whole crop at its place in the order. A program whose crop drew contrast therefore
computes its tiles twice. Storing them instead would write and read 12 bytes per pixel and need memory, while computing
them costs two to four taps per axis. Several programs per crop would need one more launch, and a batch of multi-crops
has enough programs to fill a GPU.

A blur needs the neighbouring pixels with all earlier operations applied. The first launch writes crops that drew a
blur, and only those, to a float32 scratch. The second launch continues from there, and returns at once for other crops.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: SIM102  # a compile-time condition must stand alone
import triton
import triton.language as tl

from ._operations import NUMBER_OF, OPERATIONS
from ._triton_pixels import _round, blend, blurred_tile, luma, resized_tile, shift_hue, turned_blurred_tile

ROTATION, JITTER, GREY, SOLARISE = (
    tl.constexpr(NUMBER_OF[name]) for name in ("rotation", "jitter", "grey", "solarise")
)
NO_OPERATION = tl.constexpr(len(OPERATIONS))  # also: all operations are live
BRIGHTNESS, CONTRAST, SATURATION = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

assert len(OPERATIONS) <= 8, "a digit of ORDER has 3 bits: use more"


def order_of(operations: list[str]) -> int:
    """Return the kernel's ORDER: the numbers of the operations as digits of base 8, the first one lowest.

    The digit 0, the flip, means no operation, because the flip is part of the cut. ORDER never contains the blur, which
    separates the two launches.
    """
    return sum(NUMBER_OF[operation] << 3 * k for k, operation in enumerate(operations))


@triton.jit
def _jittered(red, green, blue, crop, factors, jitter_order, grey, MEAN: tl.constexpr):
    """Apply the four factors in this crop's order; MEAN: only those before contrast."""
    live = True
    for k in tl.static_range(4):
        which = tl.load(jitter_order + 4 * crop + k).to(tl.int32)
        factor = tl.load(factors + 4 * crop + which)
        if MEAN:
            live = live & (which != CONTRAST)
        if live:
            if which == BRIGHTNESS:
                red, green, blue = blend(red, green, blue, factor, 0.0)
            elif which == CONTRAST:
                red, green, blue = blend(red, green, blue, factor, grey)
            elif which == SATURATION:
                red, green, blue = blend(red, green, blue, factor, luma(red, green, blue))
            elif factor != 0.0:
                red, green, blue = shift_hue(red, green, blue, factor)
    return red, green, blue


@triton.jit
def _tile(
    y0, x0, image, place, scratch, sigma, flipped, cos, sin, crop, n_live, flags, threshold, mean_grey,
    STRIDE_C: tl.constexpr, SIZE: tl.constexpr, ORDER: tl.constexpr, ROTATION_AT: tl.constexpr, JITTER_AT: tl.constexpr,
    BLURRED: tl.constexpr, CUBIC: tl.constexpr, MEAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return (ROWS, COLUMNS) pixels of a crop from (y0, x0) on, after its operations.

    MEAN: stop before contrast. n_live: number of operations of ORDER that this crop gets in this launch.
    """
    y = y0 + tl.arange(0, ROWS)[:, None]
    x = x0 + tl.arange(0, COLUMNS)[None, :]
    TURNED: tl.constexpr = (JITTER_AT if MEAN else NO_OPERATION) > ROTATION_AT
    if TURNED:  # nearest source pixel, in the arithmetic of affine_grid and grid_sample
        across = (2 * x + 1 - SIZE).to(tl.float32) / SIZE
        down = (2 * y + 1 - SIZE).to(tl.float32) / SIZE
        x = _round(((cos * across - sin * down + 1.0) * SIZE - 1.0) * 0.5).to(tl.int32)
        y = _round(((sin * across + cos * down + 1.0) * SIZE - 1.0) * 0.5).to(tl.int32)
        inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
    if BLURRED:
        if TURNED:
            red, green, blue = turned_blurred_tile(scratch, y, x, sigma, SIZE, ROWS, COLUMNS)
        else:
            red, green, blue = blurred_tile(scratch, y0, y, x, sigma, SIZE, ROWS, COLUMNS)
    else:
        stride_y, stride_x, top, left, height, width, resized_h, resized_w, offset_y, offset_x = place
        x = tl.where(flipped, SIZE - 1 - x, x)
        red, green, blue = resized_tile(
            image, stride_y, stride_x, offset_y + y, offset_x + x, top, left, height, width, resized_h, resized_w,
            STRIDE_C, ROWS, COLUMNS, CUBIC,
        )  # fmt: skip

    jitter, factors, jitter_order, grey, solarise = flags
    for k in tl.static_range(JITTER_AT + 1 if MEAN else NO_OPERATION):
        if (ORDER >> 3 * k) % 8 == ROTATION:
            if k < n_live:
                red, green, blue = tl.where(inside, red, 0.0), tl.where(inside, green, 0.0), tl.where(inside, blue, 0.0)
        elif (ORDER >> 3 * k) % 8 == JITTER:
            if (tl.load(jitter + crop) != 0) & (k < n_live):
                red, green, blue = _jittered(red, green, blue, crop, factors, jitter_order, mean_grey, MEAN)
        elif (ORDER >> 3 * k) % 8 == GREY:
            if (tl.load(grey + crop) != 0) & (k < n_live):
                red = luma(red, green, blue)
                green, blue = red, red
        elif (ORDER >> 3 * k) % 8 == SOLARISE:
            if (tl.load(solarise + crop) != 0) & (k < n_live):
                red = tl.where(red >= threshold, 1.0 - red, red)
                green = tl.where(green >= threshold, 1.0 - green, green)
                blue = tl.where(blue >= threshold, 1.0 - blue, blue)
    return red, green, blue


@triton.jit(do_not_specialize=["n_images", "n_set"])
def render_crops(
    # the images, stride_n apart or at places; crop i belongs to image rows[i % n_images], or i % n_images
    pixels, places, rows, n_images, n_set, image_h, image_w, stride_n, stride_y, stride_x,
    # the tensors of the plan in order, flattened to one row per crop
    box, resized, offset, flip, turn, jitter, factors, jitter_order, grey, blur, sigma, solarise, threshold,
    # the crops (n, 3, SIZE, SIZE) with these strides, and the scratch of the same shape, contiguous
    out, out_c, out_y, out_x, scratch, mean_r, mean_g, mean_b, std_r, std_g, std_b,
    STRIDE_C: tl.constexpr, SIZE: tl.constexpr, ORDER: tl.constexpr, N_BEFORE: tl.constexpr,
    ROTATION_AT: tl.constexpr, JITTER_AT: tl.constexpr, BLURRED: tl.constexpr, CUBIC: tl.constexpr,
    PACKED: tl.constexpr, INDEXED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Render one crop. An index or a box outside its images gives a crop of NaN, not a memory fault.

    ORDER: operations of this launch. N_BEFORE: how many of them come before the blur of the second launch, NO_OPERATION
    if there is no second launch. ROTATION_AT, JITTER_AT: their places in ORDER, NO_OPERATION if they are not in it.
    BLURRED: whether this is the second launch.
    """
    crop = tl.program_id(0)
    drew_blur = tl.load(blur + crop)
    if BLURRED:
        if drew_blur == 0:
            return
    finished = (N_BEFORE == NO_OPERATION) | (drew_blur == 0)  # no second launch continues this crop
    n_live = tl.where(finished, NO_OPERATION, N_BEFORE)

    number = (crop % n_images).to(tl.int64)
    if INDEXED:
        number = tl.load(rows + number)
    wrong = (number < 0) | (number >= n_set)
    number = tl.where(wrong, 0, number)
    if PACKED:
        image = pixels + tl.load(places + 3 * number)
        image_h = tl.load(places + 3 * number + 1).to(tl.int32)
        image_w = tl.load(places + 3 * number + 2).to(tl.int32)
        stride_y = 3 * image_w
    else:
        image = pixels + number * stride_n
    top, left = tl.load(box + 4 * crop), tl.load(box + 4 * crop + 1)
    height, width = tl.load(box + 4 * crop + 2), tl.load(box + 4 * crop + 3)
    wrong |= (top < 0) | (left < 0) | (height < 1) | (width < 1) | (top + height > image_h) | (left + width > image_w)
    top, left = tl.where(wrong, 0, top), tl.where(wrong, 0, left)
    height, width = tl.where(wrong, 1, height), tl.where(wrong, 1, width)
    poison = tl.where(wrong, float("nan"), 0.0)
    place = (
        stride_y, stride_x, top, left, height, width,
        tl.load(resized + 2 * crop), tl.load(resized + 2 * crop + 1), tl.load(offset + 2 * crop),
        tl.load(offset + 2 * crop + 1),
    )  # fmt: skip
    flags = (jitter, factors, jitter_order, grey, solarise)
    flipped = tl.load(flip + crop) != 0
    crop_sigma = tl.load(sigma + crop)
    scratch += crop.to(tl.int64) * (3 * SIZE * SIZE)
    out += crop.to(tl.int64) * (3 * SIZE * SIZE)
    cos, sin = 1.0, 0.0
    if ROTATION_AT < NO_OPERATION:
        cos = tl.where(n_live > ROTATION_AT, tl.load(turn + 2 * crop), 1.0)
        sin = tl.where(n_live > ROTATION_AT, tl.load(turn + 2 * crop + 1), 0.0)

    mean_grey = 0.0
    if JITTER_AT < NO_OPERATION:
        contrast = tl.load(factors + 4 * crop + CONTRAST)
        if (tl.load(jitter + crop) != 0) & (n_live > JITTER_AT) & (contrast != 1.0):
            total = tl.zeros([ROWS, COLUMNS], tl.float32)
            for y0 in range(0, SIZE, ROWS):
                for x0 in range(0, SIZE, COLUMNS):
                    red, green, blue = _tile(
                        y0, x0, image, place, scratch, crop_sigma, flipped, cos, sin, crop, n_live, flags,
                        threshold, 0.0, STRIDE_C, SIZE, ORDER, ROTATION_AT, JITTER_AT, BLURRED, CUBIC,
                        True, ROWS, COLUMNS,
                    )  # fmt: skip
                    inside = (y0 + tl.arange(0, ROWS)[:, None] < SIZE) & (x0 + tl.arange(0, COLUMNS)[None, :] < SIZE)
                    total += tl.where(inside, luma(red, green, blue), 0.0)
            mean_grey = tl.sum(tl.sum(total, 1), 0) / (SIZE * SIZE)

    for y0 in range(0, SIZE, ROWS):
        for x0 in range(0, SIZE, COLUMNS):
            red, green, blue = _tile(
                y0, x0, image, place, scratch, crop_sigma, flipped, cos, sin, crop, n_live, flags,
                threshold, mean_grey, STRIDE_C, SIZE, ORDER, ROTATION_AT, JITTER_AT, BLURRED, CUBIC,
                False, ROWS, COLUMNS,
            )  # fmt: skip
            y = y0 + tl.arange(0, ROWS)[:, None]
            x = x0 + tl.arange(0, COLUMNS)[None, :]
            inside = (y < SIZE) & (x < SIZE)
            if finished:
                pixel = out + y * out_y + x * out_x
                tl.store(pixel, ((red - mean_r) / std_r + poison).to(out.dtype.element_ty), inside)
                tl.store(pixel + out_c, ((green - mean_g) / std_g + poison).to(out.dtype.element_ty), inside)
                tl.store(pixel + 2 * out_c, ((blue - mean_b) / std_b + poison).to(out.dtype.element_ty), inside)
            else:
                unblurred = scratch + y * SIZE + x
                tl.store(unblurred, red, inside)
                tl.store(unblurred + SIZE * SIZE, green, inside)
                tl.store(unblurred + 2 * SIZE * SIZE, blue, inside)
