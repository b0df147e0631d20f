"""Scale pixels of more than 8 bits, or floats, to 0...255."""

import numpy as np

OVERSHOOT = 0.1  # of floats after resizing or filtering
_DEPTHS = (8, 9, 10, 12, 14, 16)  # bits per pixel of common sensors


def likely_range(low: float, high: float, *, is_float: bool) -> tuple[float, float]:
    """Return the range (low, high) that pixel values between `low` and `high` are likely to be stored in.

    Whole numbers: 0 to the largest value of the smallest common bit depth that holds them, so that pictures of a
    12-bit sensor in 16-bit files do not come out near black. Floats: 0 to 1 if they fit, else as whole numbers.

    Raises:
        ValueError: If values are negative, above 65,535 or not finite: then no range is likely.
    """
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("pixels are NaN or infinite")
    if is_float and low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return 0.0, 1.0
    for depth in _DEPTHS:
        if low >= 0 and high <= 2**depth - 1:
            return 0.0, float(2**depth - 1)
    raise ValueError(f"pixels between {low:g} and {high:g} have no known range: give it as pixel_range (LOW, HIGH)")


def to_8_bit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return uint8 pixels: `low` becomes 0, `high` 255, values in between are rounded and values beyond are clipped."""
    scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.floor(np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)
