"""report.html: table, curves and pictures of a run, in one file that opens without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image


def render_report(
    results: dict[str, Any], metrics: Sequence[dict[str, Any]], pictures: Sequence[tuple[str, Image.Image]]
) -> str:
    """The page; all names are escaped, and those that are no Unicode, as file names can be, are shown with a ?."""
    page = Environment(loader=PackageLoader("steady_runs", "."), autoescape=True).get_template("report.html.j2")
    steps = [line for line in metrics if "loss" in line]
    html = page.render(
        results=results,
        curves=_curves(steps, metrics, results["columns"][0]) if len(steps) > 1 else None,
        pictures=[(caption, _data_uri(picture)) for caption, picture in pictures],
    )
    return html.encode(errors="replace").decode()


def _curves(steps: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]], column: str) -> Markup:
    scores = [(line["step"], line[column]) for line in metrics if column in line and "step" in line]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "steady-runs", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        left.plot([s["step"] for s in steps], [s["loss"] for s in steps], color="#2f6fde")
        left.set_title("loss")
        middle.plot([s["step"] for s in steps], [s["lr"] for s in steps], color="#2f6fde")
        middle.set_title("learning rate")
        right.plot([s for s, _ in scores], [v for _, v in scores], color="#2f6fde", marker="o")
        right.set_title(f"{column} (%)", parse_math=False)
        for axis in (left, middle, right):
            axis.set_xlabel("iteration")
            axis.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
