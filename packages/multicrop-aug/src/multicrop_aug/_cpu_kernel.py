"""Renders crops of one plan, each from its source pixels to normalised planes."""

from collections.abc import Callable
from typing import Any

from ._cpu_cut import cut
from ._cpu_jit import jit, package_digest
from ._cpu_memory import HEIGHT, WIDTH
from ._cpu_operations import HUE, apply, normalise
from ._operations import PLACE, TENSORS

FLIP, JITTER_ORDER = (TENSORS.index(name) - len(PLACE) for name in ("flip", "jitter_order"))  # positions in `drawn`


def _compiled(version: str) -> Callable[..., Any]:
    @jit
    def render_crops(  # type: ignore[no-untyped-def]
        rows, pixels, layouts, place, drawn, order, threshold, mean, std, cubic, out
    ):
        """Render crops `rows` of a group, each from start to end while it is in cache.

        Nothing else keeps a plan that was changed by hand from reading foreign memory, so a bad place raises here.

        Args:
            rows: Crop-major numbers, row = crop * n + image, for the n images of `layouts`.
            pixels: Flat uint8 memory of the images.
            layouts: See `_cpu_memory.Memory`.
            place: (N, 8), box, resized and offset of the group side by side.
            drawn: The group's other tensors, in order, flattened to N rows.
            order: Operations by number.
            threshold: Of solarisation.
            mean: (3,) float32.
            std: (3,) float32.
            cubic: Whether to interpolate bicubically.
            out: (N, 3, S, S) float32, written.

        Raises:
            ValueError: A box or a window lies outside its image, or a jitter order is invalid.
        """
        _ = version  # makes it part of the closure; see package_digest
        size = out.shape[2]
        for row in rows:
            layout, where, crop = layouts[row % len(layouts)], place[row], out[row]
            if not fits(where, layout[HEIGHT], layout[WIDTH], size) or max(drawn[JITTER_ORDER][row]) > HUE:
                raise ValueError("the plan has a box or a window outside of its image, or a jitter order beyond 0..3")
            cut(pixels, layout, where, drawn[FLIP][row], cubic, crop)
            for operation in order:
                apply(operation, crop, row, threshold, *drawn)
            normalise(crop.reshape(3, size * size), mean, std)

    return render_crops


@jit
def fits(place, height, width, size):  # type: ignore[no-untyped-def]
    """Whether the box lies in its image and the window in the resized box."""
    top, left, box_height, box_width, resized_height, resized_width, y, x = place
    in_image = top >= 0 and 0 < box_height <= height - top and left >= 0 and 0 < box_width <= width - left
    return in_image and 0 <= y <= resized_height - size and 0 <= x <= resized_width - size


render_crops = _compiled(package_digest())
