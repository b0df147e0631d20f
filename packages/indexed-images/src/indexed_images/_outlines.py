"""Convert masks to polygons and to run lengths, as annotation files store them."""

import numpy as np


def outlines(mask: np.ndarray) -> list[list[int]]:
    """Return the closed outlines of a bool mask (H, W) along pixel borders, each as corners [x1, y1, x2, y2, ...].

    Filling them gives the mask back. Outer outlines run clockwise as seen, outlines of holes counter-clockwise. Pixels
    that touch only at a corner are not connected.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    # 1 where an object begins, -1 where it ends
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    # Every piece of border as x, y and the unit step from there, directed so that the object is on its right.
    level = [(x + (sign < 0), y, sign, 0) for x, y, sign in _signs(down)]
    border = {*level, *((x, y + (sign > 0), 0, -sign) for x, y, sign in _signs(right))}
    found = []
    for start in level:  # row by row: the first remaining piece of an outline then begins at a corner
        if start not in border or start[2] < 0:
            continue
        piece, corners = start, [*start[:2]]
        while True:
            border.remove(piece)
            x, y, dx, dy = piece
            x, y = x + dx, y + dy
            turns = ((x, y, -dy, dx), (x, y, dx, dy), (x, y, dy, -dx))  # turn right, go ahead, turn left
            piece = next(turn for turn in turns if turn in border or turn == start)
            if piece == start:
                break
            if piece[2:] != (dx, dy):
                corners += [x, y]
        found.append(corners)
    return found


def _signs(steps: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (x, y, value) of the non-zero elements, row by row."""
    y, x = steps.nonzero()
    return list(zip(x.tolist(), y.tolist(), steps[y, x].tolist(), strict=True))


def signed_area(outline: list[int]) -> float:
    """Return the area inside an outline in pixels, negative for a hole."""
    x, y = np.array(outline).reshape(-1, 2).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return COCO's run lengths: column by column, counts of pixels alternately outside and inside the mask.

    The first count is for pixels outside and may be 0.
    """
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0))
    return np.diff(changes, prepend=0, append=len(flat)).tolist()
