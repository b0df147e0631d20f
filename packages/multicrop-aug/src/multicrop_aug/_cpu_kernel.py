"""One crop from its pixels to normalised planes, and a run of crops of one plan."""

from collections.abc import Callable
from typing import Any

from ._cpu_colour import HUE, grey, jitter, normalise, solarise
from ._cpu_cut import cut
from ._cpu_filter import blur, rotate
from ._cpu_jit import jit, package_digest
from ._cpu_memory import HEIGHT, WIDTH
from ._operations import NUMBER_OF

ROTATION, JITTER, GREY, BLUR, SOLARISE = (
    NUMBER_OF[name] for name in ("rotation", "jitter", "grey", "blur", "solarise")
)


def _compiled(version: str) -> Callable[..., Any]:
    @jit
    def render_crops(  # type: ignore[no-untyped-def]
        rows, pixels, layouts, place, flip, angle, jittered, factors, jitter_order, greyed, blurred, sigma, solarised,
        order, threshold, mean, std, cubic, out,
    ):  # fmt: skip
        """Crops `rows` of a group, each from start to end while it is in cache.

        rows: crop-major numbers, row = crop * n + image for the n images of `layouts` (see _cpu_memory). order:
        operations by number. out: (N, 3, S, S) float32. The rest: a group's tensors in their order, flattened to N
        rows; place is box, resized and offset side by side. Raises ValueError at a place outside its image: nothing
        else keeps a plan that was changed by hand from reading foreign memory.
        """
        _ = version  # in the closure: see package_digest
        size = out.shape[2]
        for row in rows:
            layout, where, crop = layouts[row % len(layouts)], place[row], out[row]
            flat = crop.reshape(3, size * size)
            if not fits(where, layout[HEIGHT], layout[WIDTH], size) or max(jitter_order[row]) > HUE:
                raise ValueError("the plan has a box or a window outside of its image, or a jitter order beyond 0..3")
            cut(pixels, layout, where, flip[row], cubic, crop)
            turn = angle[row]
            for operation in order:
                if operation == ROTATION and turn != 0:
                    rotate(crop, turn)
                elif operation == JITTER and jittered[row]:
                    jitter(flat, factors[row], jitter_order[row])
                elif operation == GREY and greyed[row]:
                    grey(flat)
                elif operation == BLUR and blurred[row]:
                    blur(crop, sigma[row])
                elif operation == SOLARISE and solarised[row]:
                    solarise(flat, threshold)
                # the flip was done with the cut: it commutes with all but rotation, whose angle has the sign for that
            normalise(flat, mean, std)

    return render_crops


@jit
def fits(place, height, width, size):  # type: ignore[no-untyped-def]
    """Whether a box lies in its image and a window in the resized box."""
    top, left, box_height, box_width, resized_height, resized_width, y, x = place
    in_image = top >= 0 and 0 < box_height <= height - top and left >= 0 and 0 < box_width <= width - left
    return in_image and 0 <= y <= resized_height - size and 0 <= x <= resized_width - size


render_crops = _compiled(package_digest())
