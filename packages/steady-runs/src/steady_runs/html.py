"""Parts of report.html, a page in one file that opens without a network."""

from __future__ import annotations

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

PLOT_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cluster-ssl",  # the same plot gives the same bytes
    "font.family": "sans-serif",
}


def render_page(package: str, template: str, **content: Any) -> str:
    """Fill a Jinja template of a package. All text is escaped; characters that are not valid Unicode become `?`."""
    page = Environment(loader=PackageLoader(package, "."), autoescape=True).get_template(template)
    return page.render(**content).encode(errors="replace").decode()


def svg(figure: Figure, **options: Any) -> Markup:
    """A figure as an SVG element; its text is escaped. Call within `matplotlib.rc_context(PLOT_STYLE)`.

    `options` go to `Figure.savefig`.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def data_uri(picture: Image.Image, kind: str = "PNG") -> str:
    """A picture as a `data:` address: PNG, or JPEG of quality 88."""
    buffer = io.BytesIO()
    if kind == "JPEG":
        picture.convert("RGB").save(buffer, kind, quality=88)
    else:
        picture.save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def tile(pixels: Any, side: int) -> Image.Image:
    """The central square of an image, resized to `side` pixels.

    Args:
        pixels: uint8 tensor (3, H, W).
        side: Width and height of the result in pixels.
    """
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    square = min(picture.size)
    left, top = (picture.width - square) // 2, (picture.height - square) // 2
    enlarge = Image.Resampling.NEAREST if square < side else Image.Resampling.LANCZOS
    return picture.resize((side, side), enlarge, box=(left, top, left + square, top + square))
