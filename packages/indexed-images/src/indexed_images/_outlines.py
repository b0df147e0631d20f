"""Masks as outlines and as run lengths: what annotation files hold."""

import numpy as np


def outlines(mask: np.ndarray) -> list[list[int]]:
    """The closed outlines of bool (H, W), each [x1, y1, x2, y2, ...] of its corners, along the borders of pixels.

    Filled, they are the mask again. Outer ones run clockwise as seen, those of holes the other way; pixels that only
    touch at a corner are apart.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]  # 1 where an object begins, -1 ends
    # Every piece of border as x, y and the step from there that has the object on its right-hand side.
    level = [(x + (sign < 0), y, sign, 0) for x, y, sign in _signs(down)]
    border = {*level, *((x, y + (sign > 0), 0, -sign) for x, y, sign in _signs(right))}
    found = []
    for start in level:  # row by row, so that the first piece left of an outline begins at a corner
        if start not in border or start[2] < 0:
            continue
        piece, corners = start, [*start[:2]]
        while True:
            border.remove(piece)
            x, y, dx, dy = piece
            x, y = x + dx, y + dy
            turns = ((x, y, -dy, dx), (x, y, dx, dy), (x, y, dy, -dx))  # right, ahead, left
            piece = next(turn for turn in turns if turn in border or turn == start)
            if piece == start:
                break
            if piece[2:] != (dx, dy):
                corners += [x, y]
        found.append(corners)
    return found


def _signs(steps: np.ndarray) -> list[tuple[int, int, int]]:
    """x, y and value of what is not 0, row by row."""
    y, x = steps.nonzero()
    return list(zip(x.tolist(), y.tolist(), steps[y, x].tolist(), strict=True))


def signed_area(outline: list[int]) -> float:
    """Pixels inside an outline; negative where it is a hole's."""
    x, y = np.array(outline).reshape(-1, 2).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's counts: down the columns, in turn how many pixels are out of the mask and in it; the first may be 0."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0))
    return np.diff(changes, prepend=0, append=len(flat)).tolist()
