"""report.html: table, curves and pictures of a run, in one file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from steady_runs.html import PLOT_STYLE, data_uri, render_page, svg


def render_report(
    results: dict[str, Any], metrics: Sequence[dict[str, Any]], pictures: Sequence[tuple[str, Image.Image]]
) -> str:
    """Render the page. All names are escaped.

    Args:
        results: Content of results.json.
        metrics: Lines of metrics.jsonl.
        pictures: (caption, image) pairs.
    """
    steps = [line for line in metrics if "loss" in line]
    return render_page(
        "steady_runs.benchmark",
        "report.html.j2",
        results=results,
        curves=_curves(steps, metrics, results["columns"][0]) if len(steps) > 1 else None,
        pictures=[(caption, data_uri(picture, "JPEG")) for caption, picture in pictures],
    )


def _curves(steps: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]], column: str) -> Markup:
    """Loss, learning rate and score over the iterations, as SVG."""
    scores = [(line["step"], line[column]) for line in metrics if column in line and "step" in line]
    with mpl.rc_context(PLOT_STYLE):
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
        return svg(figure)
