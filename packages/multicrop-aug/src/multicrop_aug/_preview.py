"""`draw_preview`: a contact sheet of what a recipe does to one picture."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ._arrays import to_tensor
from ._decode import rgb_pixels
from ._operations import BY_NAME, CropGroup
from ._plan import CropPlan
from ._recipe import Recipe
from ._render import render

_PAPER, _INK = "#ffffff", "#464646"
_COLOURS = (
    "#d62728",
    "#1f77b4",
    "#2ca02c",
    "#e5750b",
    "#9467bd",
    "#d14fa3",
    "#0f9fb0",
    "#a3a417",
    "#8c564b",
    "#6f6f6f",
)
_GAP, _MARGIN, _FRAME, _LINE = 14, 20, 3, 15  # pixels
_SMALLEST = 104  # smallest width of a cell; crops of at most half of it are enlarged by a whole factor
_FONT_SIZE = 12


def draw_preview(
    recipe: Recipe,
    image: Image.Image | Tensor | np.ndarray,
    path: str | Path | None = None,
    *,
    n: int = 3,
    seed: int = 0,
) -> Image.Image:
    """Draw a contact sheet of a recipe.

    Each row shows one draw: the image with the boxes, the crops, and what was drawn for each of them.

    Args:
        recipe: What to draw.
        image: A PIL image, or a uint8 tensor or array (3, H, W).
        path: Where to save the sheet, if given.
        n: Number of rows. Row r is the draw of sample 0 in epoch r.
        seed: Any integer.

    Returns:
        The sheet, an RGB PIL image.

    Raises:
        ValueError: n is below 1.

    Example:
        ```python
        draw_preview(dino(), Image.open("photo.jpg"), "preview.png", n=2)
        ```
    """
    if n < 1:
        raise ValueError(f"n must be at least 1 row, got {n}")
    image = rgb_pixels(image) if isinstance(image, Image.Image) else to_tensor(image)
    sizes = (image.shape[-2], image.shape[-1])
    rows = [_row(image, recipe.draw(torch.tensor([0]), epoch, sizes, seed)) for epoch in range(n)]
    return _stacked(rows, path)


def _stacked(rows: list[Image.Image], path: str | Path | None) -> Image.Image:
    width = max(row.width for row in rows) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, sum(row.height + _GAP for row in rows) - _GAP + 2 * _MARGIN), _PAPER)
    top = _MARGIN
    for row in rows:
        sheet.paste(row, (_MARGIN, top))
        top += row.height + _GAP
    if path is not None:
        sheet.save(path)
    return sheet


def _row(image: Tensor, plan: CropPlan) -> Image.Image:
    """Return one draw: the image, then each group as a grid of cells, little higher than the highest cell."""
    crops = [_picture(crop[0], plan) for crop in render([image], plan)]
    cells, first = [], 0
    for group in plan.groups:
        captions = [_words(group, v, plan.order) for v in range(group.n_crops)]
        cells.append(_cells(crops[first : first + group.n_crops], captions, first))
        first += group.n_crops
    height = 4 * max(cell.height for group in cells for cell in group) // 3
    largest = max(_shown(group.size) + 2 * _FRAME for group in plan.groups)
    blocks = [_with_boxes(image, plan, largest), *(_grid(group, height) for group in cells)]

    row = Image.new("RGB", (sum(b.width + _GAP for b in blocks) - _GAP, max(b.height for b in blocks)), _PAPER)
    left = 0
    for block in blocks:
        row.paste(block, (left, 0))
        left += block.width + _GAP
    return row


def _with_boxes(image: Tensor, plan: CropPlan, height: int) -> Image.Image:
    """Return the image, at most `height` high and 4/3 as wide, with a numbered frame for each crop."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = min(height / picture.height, height * 4 / 3 / picture.width)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    pen = ImageDraw.Draw(picture)
    v = 0
    for group in plan.groups:
        for crop in range(group.n_crops):
            # the window of the resized box, in pixels of the image
            top, left, h, w = group.box[crop, 0].tolist()
            (resized_h, resized_w), (y, x) = group.resized[crop, 0].tolist(), group.offset[crop, 0].tolist()
            top, left = top + y * h / resized_h, left + x * w / resized_w
            bottom, right = top + group.size * h / resized_h, left + group.size * w / resized_w
            corners = [round(edge * scale) for edge in (left, top, right, bottom)]
            pen.rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), outline=_colour(v), width=2)
            _number(pen, corners[0], corners[1], v)
            v += 1
    return picture


def _cells(crops: list[Image.Image], captions: list[list[str]], first: int) -> list[Image.Image]:
    """Return framed crops with their captions, all of one height."""
    shown = _shown(crops[0].width)
    width = max(shown + 2 * _FRAME, _SMALLEST)
    lines = [_wrapped(words, width) for words in captions]
    height = shown + 2 * _FRAME + 4 + _LINE * max(len(line) for line in lines)
    cells = []
    for v, (crop, text) in enumerate(zip(crops, lines, strict=True), start=first):
        cell = Image.new("RGB", (width, height), _PAPER)
        pen = ImageDraw.Draw(cell)
        pen.rectangle((0, 0, shown + 2 * _FRAME - 1, shown + 2 * _FRAME - 1), fill=_colour(v))
        cell.paste(crop.resize((shown, shown), Image.Resampling.NEAREST), (_FRAME, _FRAME))
        _number(pen, 0, 0, v)
        for i, line in enumerate(text):
            pen.text((1, shown + 2 * _FRAME + 3 + i * _LINE), line, fill=_INK, font=_font())
        cells.append(cell)
    return cells


def _shown(size: int) -> int:
    """Return the side at which a crop is shown, in pixels of the sheet."""
    return size * max(1, _SMALLEST // size)


def _grid(cells: list[Image.Image], height: int) -> Image.Image:
    width, cell_height = cells[0].size
    n_rows = max(1, (height + _GAP) // (cell_height + _GAP))
    n_columns = math.ceil(len(cells) / n_rows)
    n_rows = math.ceil(len(cells) / n_columns)
    size = n_columns * (width + _GAP) - _GAP, n_rows * (cell_height + _GAP) - _GAP
    grid = Image.new("RGB", size, _PAPER)
    for i, cell in enumerate(cells):
        grid.paste(cell, (i % n_columns * (width + _GAP), i // n_columns * (cell_height + _GAP)))
    return grid


def _words(group: CropGroup, v: int, order: tuple[str, ...]) -> list[str]:
    """Return what happens to crop v after the cut, in order."""
    crop = group.apply(lambda t: t[v, 0])
    return [word for operation in order for word in BY_NAME[operation].words(crop)]


def _wrapped(words: list[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]}  {word}" if lines else word
        if lines and _font().getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _picture(crop: Tensor, plan: CropPlan) -> Image.Image:
    mean, std = (torch.tensor(t)[:, None, None] for t in (plan.mean, plan.std))
    pixels = ((crop * std + mean).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _number(pen: ImageDraw.ImageDraw, left: int, top: int, v: int) -> None:
    text = str(v + 1)
    pen.rectangle((left, top, left + round(_font().getlength(text)) + 7, top + _LINE), fill=_colour(v))
    pen.text((left + 4, top), text, fill=_PAPER, font=_font())


def _colour(v: int) -> str:
    return _COLOURS[v % len(_COLOURS)]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)
