"""The parts that drawn images are painted with, elementwise and mostly in float32 (`_shapes.py` says why)."""

import numpy as np

from ._hash import hash64, mix, uniform

_LUMA = np.array([0.299, 0.587, 0.114])
_N_STROKES = 5


def directions(turns: np.ndarray) -> np.ndarray:
    """Return cosine and sine (2, n) of turns in [0, 1), by polynomials: the last bit of libm depends on the machine."""
    quadrant = np.floor(turns * 4)
    a = (turns * 4 - quadrant - 0.5) * (np.pi / 2)  # [-pi/4, pi/4)
    a2 = a * a
    sine = a * (1 - a2 / 6 * (1 - a2 / 20 * (1 - a2 / 42 * (1 - a2 / 72 * (1 - a2 / 110)))))
    cosine = 1 - a2 / 2 * (1 - a2 / 12 * (1 - a2 / 30 * (1 - a2 / 56 * (1 - a2 / 90))))
    # rotated by an eighth of a turn, to the middle of the quadrant
    c, s = (cosine - sine) * np.sqrt(0.5), (cosine + sine) * np.sqrt(0.5)
    quarter = quadrant.astype(np.int64)
    return np.stack([np.choose(quarter, [c, -s, -c, s]), np.choose(quarter, [s, c, -s, -c])])


def _turned(dx: np.ndarray, dy: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate offsets (n, 1, X) and (n, Y, 1) into the frame of `axes` (2, n): two float32 planes (n, Y, X)."""
    c, s = axes[:, :, None, None]
    u = (dx * c).astype(np.float32) + (dy * s).astype(np.float32)
    v = (dy * c).astype(np.float32) - (dx * s).astype(np.float32)
    return u, v


def inside_shape(dx: np.ndarray, dy: np.ndarray, shape: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return bool (n, Y, X), True for samples that the object covers; axes are in units of its radius."""
    inside = np.empty((len(shape), dy.shape[1], dx.shape[2]), dtype=bool)
    for kind, test in enumerate((_disc, _triangle, _cross, _ring)):
        chosen = np.flatnonzero(shape == kind)
        inside[chosen] = test(*_turned(dx[chosen], dy[chosen], axes[:, chosen]))
    return inside


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + v * v < 1


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    side = np.abs(u) * np.float32(0.8660254) + v * np.float32(0.5)
    return (side < np.float32(0.6)) & (v > np.float32(-0.6))


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return (np.minimum(u, v) < np.float32(0.36)) & (np.maximum(u, v) < 1)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    square = u * u + v * v
    return (square < 1) & (square > np.float32(0.27))


def on_texture(dx: np.ndarray, dy: np.ndarray, texture: np.ndarray, axes: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Return bool (n, Y, X), True for samples in the second colour of the texture: 0 none, 1 stripes, 2 checks.

    axes and phases (2, n) are in units of the texture's period.
    """
    marked = np.zeros((len(texture), dy.shape[1], dx.shape[2]), dtype=bool)
    for kind in (1, 2):
        chosen = np.flatnonzero(texture == kind)
        u, v = _turned(dx[chosen], dy[chosen], axes[:, chosen] if kind == 1 else axes[:, chosen] * 0.75)
        marked[chosen] = _half(u, phases[0, chosen])
        if kind == 2:
            marked[chosen] ^= _half(v, phases[1, chosen])
    return marked


def _half(u: np.ndarray, phase: np.ndarray) -> np.ndarray:
    u = u + phase.astype(np.float32)[:, None, None]
    return u - np.floor(u) < np.float32(0.5)


def colours(keys: np.ndarray, field: int) -> np.ndarray:
    """Draw the RGB colours (3, n, 3) of object, marks and ground: random hues with a dark, middle and bright luma.

    The lumas differ so that no conversion to grey and no change of hue hides a part. Their order is the same in all
    images: no augmentation could teach a network to ignore it, so clusters would form on it first if it varied.
    """
    lumas = [uniform(keys, field + k, low, low + 0.22) for k, low in enumerate((0.03, 0.38, 0.73))]
    return np.stack([_tinted(keys, field + 6 + 4 * k, luma) for k, luma in enumerate(lumas)])


def _tinted(keys: np.ndarray, field: int, luma: np.ndarray) -> np.ndarray:
    """Draw RGB colours (n, 3) of a given luma, with hue and saturation from four fields of the keys."""
    tint = uniform(keys[:, None], field + np.arange(3), -1, 1)
    tint = tint - (tint[:, 0] * _LUMA[0] + tint[:, 1] * _LUMA[1] + tint[:, 2] * _LUMA[2])[:, None]
    # Stay in gamut, so that no clipping changes the luma.
    room = np.minimum(luma, 1 - luma) / np.maximum(np.abs(tint).max(1), 1e-6)
    return luma[:, None] + tint * (room * uniform(keys, field + 3, 0.0, 0.5))[:, None]


def paint(
    ground: np.ndarray, covered: np.ndarray, marked: np.ndarray, colour: np.ndarray, mark: np.ndarray
) -> np.ndarray:
    """Paint objects over grounds (n, 3, H, W).

    Objects have `colour` (n, 3), and `mark` (n, 3) on their marks. `covered` and `marked` (n, 1, H, W) are the shares
    of pixels that objects and marks cover.
    """
    colour, mark = (c.astype(np.float32)[:, :, None, None] for c in (colour, mark))
    return ground + covered * (colour - ground) + marked * (mark - colour)


def background(keys: np.ndarray, field: int, colour: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draw grounds of one colour each with short strokes and blobs of random colours, float32 (n, 3, H, W)."""
    ground = np.broadcast_to(colour.astype(np.float32)[:, :, None, None], (len(keys), 3, height, width)).copy()
    across, down = (np.arange(width) + 0.5) / height, (np.arange(height) + 0.5) / height
    # the first stroke of all n images, then the second, ...
    own = hash64(keys, field + np.arange(_N_STROKES)[:, None]).ravel()
    dx = (across - (uniform(own, 0) * (width / height))[:, None])[:, None, :]
    dy = (down - uniform(own, 1)[:, None])[:, :, None]
    axes = directions(uniform(own, 2))
    half_length, radius = (
        uniform(own, f, 0.0, high)[:, None, None].astype(np.float32) for f, high in ((3, 0.1), (4, 0.05))
    )
    inks = _tinted(own, 6, uniform(own, 5, 0.1, 0.9)).astype(np.float32)[:, :, None, None]
    for start in range(0, len(own), len(keys) or 1):
        stroke = slice(start, start + len(keys))
        u, v = _turned(dx[stroke], dy[stroke], axes[:, stroke])
        u = np.maximum(np.abs(u) - half_length[stroke], 0)
        distance = np.sqrt(u * u + v * v) - radius[stroke]
        alpha = np.minimum(np.maximum(np.float32(0.5) - distance * np.float32(height), 0), 1)[:, None]
        ground += alpha * (inks[stroke] - ground)
    return ground


def light(keys: np.ndarray, field: int, scene: np.ndarray) -> np.ndarray:
    """Apply a linear gradient of light in a random direction, at most +-25 % at the edge."""
    rows, columns = ((np.arange(length) + 0.5) / length * 2 - 1 for length in scene.shape[2:])
    fall = directions(uniform(keys, field)) * uniform(keys, field + 1, 0.0, 0.25)
    across = (columns * fall[0][:, None]).astype(np.float32)[:, None, None, :]
    down = (rows * fall[1][:, None]).astype(np.float32)[:, None, :, None]
    return scene * (across + down + np.float32(1))


def blur(keys: np.ndarray, field: int, scene: np.ndarray) -> np.ndarray:
    """Mix scenes with their 3 x 3 binomial blur, by a random weight up to 0.7."""
    weight = uniform(keys, field, 0.0, 0.7).astype(np.float32)[:, None, None, None]
    padded = np.pad(scene, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :, :-2] + padded[:, :, 2:]) * np.float32(0.25) + padded[:, :, 1:-1] * np.float32(0.5)
    smooth = (rows[..., :-2] + rows[..., 2:]) * np.float32(0.25) + rows[..., 1:-1] * np.float32(0.5)
    return scene + weight * (smooth - scene)


def noise(keys: np.ndarray, field: int, scene: np.ndarray) -> np.ndarray:
    """Add independent triangular noise to every value, with a standard deviation from 0.004 to 0.04."""
    n, _, height, width = scene.shape
    bits = mix(hash64(keys, field)[:, None] + np.arange(height * width, dtype=np.uint64))  # (n, H*W)
    parts = bits.astype("<u8").view(np.uint8).reshape(n, height * width, 8)
    strength = uniform(keys, field + 1, 0.01, 0.1).astype(np.float32)[:, None, None]
    noisy = np.empty_like(scene)
    for channel in range(3):
        triangle = parts[..., 2 * channel].astype(np.float32) - parts[..., 2 * channel + 1].astype(np.float32)
        noisy[:, channel] = scene[:, channel] + strength * triangle.reshape(n, height, width) / np.float32(255)
    return noisy
