"""Drawings of truth and prediction for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 6


def colour(k: int) -> tuple[int, int, int]:
    """The colour of class k. Hues are a golden angle apart, so that consecutive classes look different."""
    hue = (k * 0.61803398875) % 1.0
    return tuple(round(255 * _channel(hue + shift)) for shift in (0.0, 2 / 3, 1 / 3))  # type: ignore[return-value]


def _channel(hue: float) -> float:
    """Strength of one colour channel at a hue."""
    return min(1.0, max(0.15, abs((hue % 1.0) * 6 - 3) - 1))


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: np.ndarray | None = None,
    min_side: int = 300,
) -> Image.Image:
    """Draw boxes, names and masks of objects on an image.

    Args:
        image: (H, W, 3) uint8.
        boxes: (n, 4) x1 y1 x2 y2 in pixels.
        labels: n class numbers.
        names: Class names.
        scores: n scores to print behind the names.
        masks: (n, H, W) bool.
        min_side: The picture is enlarged by a whole factor until its shorter side has this many pixels.
    """
    canvas = image.astype(np.float32)
    if masks is not None:
        for mask, label in zip(masks, labels, strict=True):
            canvas[mask] = 0.5 * canvas[mask] + 0.5 * np.asarray(colour(label), np.float32)
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    factor = max(1, -(-min_side // min(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for i, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True)):
        x1, y1, x2, y2 = (value * factor for value in box)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour(label), width=2)
        text = names[label] + (f" {scores[i]:.2f}" if scores is not None else "")
        left, top, right, bottom = draw.textbbox((x1 + 3, y1 + 1), text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour(label))
        draw.text((x1 + 3, y1 + 1), text, fill="black" if sum(colour(label)) > 330 else "white", font=font)
    return picture


def draw_map(
    image: np.ndarray, labels: np.ndarray, *, plain: int | None = None, ignore: int = 255, min_side: int = 300
) -> Image.Image:
    """Colour the pixels of an image by class.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) class numbers.
        plain: Class that is not coloured, such as the background.
        ignore: Label of pixels without a class, which are not coloured.
        min_side: The picture is enlarged by a whole factor until its shorter side has this many pixels.
    """
    palette = np.asarray([colour(k) for k in range(256)], np.float32)
    canvas = image.astype(np.float32)
    shown = (labels != ignore) & (labels != (ignore if plain is None else plain))
    canvas[shown] = 0.4 * canvas[shown] + 0.6 * palette[labels[shown]]
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    factor = max(1, -(-min_side // min(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures next to each other on white, 6 pixels apart."""
    height = max(p.height for p in pictures)
    sheet = Image.new("RGB", (sum(p.width + GAP for p in pictures) - GAP, height), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + GAP
    return sheet
