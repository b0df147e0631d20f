"""Parts of report.html."""

from __future__ import annotations

import base64
import io
import os

import matplotlib as mpl
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from steady_runs.html import PLOT_STYLE, data_uri, render_page, svg, tile


def plot() -> str:
    with mpl.rc_context(PLOT_STYLE):
        figure = Figure()
        figure.subplots().set_title("a < b")
        return str(svg(figure))


def test_a_plot_is_one_svg_element_and_repeatable() -> None:
    made = plot()
    assert made.startswith("<svg")
    assert "a &lt; b" in made
    assert "Date" not in made
    assert made == plot()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("JPEG", "RGBA")])
def test_a_picture_is_a_data_address(kind: str, mode: str) -> None:
    address = data_uri(Image.new(mode, (4, 3), "red"), kind)
    head, content = address.split(",")
    assert head == f"data:image/{kind.lower()};base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (picture.format, picture.size) == (kind, (4, 3))


def test_a_tile_is_the_central_square() -> None:
    pixels = torch.zeros(3, 4, 10, dtype=torch.uint8)
    pixels[:, :, 3:7] = 255
    for side in (2, 4, 9):
        made = tile(pixels, side)
        assert made.size == (side, side)
        assert all(low > 245 for low, _ in made.getextrema())  # smoothing takes in a little of what is beside it


def test_a_page_escapes_names() -> None:
    results = {"app": "<b>", "columns": ["AP"], "metrics": {"AP": 1.0}, "data": os.fsdecode(b"\xff")}
    page = render_page("steady_runs.benchmark", "report.html.j2", results=results, curves=None, pictures=[])
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    page.encode()
