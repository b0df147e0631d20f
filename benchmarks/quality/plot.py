"""kNN over minutes, a panel for each budget, from the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality.entrants.table import ENTRANTS, RANDOM
from benchmarks.quality.records import Record
from benchmarks.quality.table import LABELS


def draw(records: Sequence[Record], picture: Path) -> None:
    """Draw the curves: ours solid, rivals dashed, means over seeds with their range; networks at random dotted."""
    done = [record for record in records if record["state"] == "finished"]
    budgets = sorted({record["minutes"] for record in done} - {0})
    if not budgets:
        raise SystemExit("no finished runs to draw")
    figure = Figure(figsize=(1.5 + 4.6 * len(budgets), 4.6), layout="constrained")
    panels = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    random = [record for record in done if record["entrant"] in RANDOM]
    for axis, minutes in zip(panels, budgets, strict=True):
        _panel(axis, [record for record in done if record["minutes"] == minutes], random, minutes)
    panels[0].set_ylabel("kNN top-1, % (k = 20, 10,000 images searched)")
    handles = {text: handle for axis in panels for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def _panel(axis: Axes, records: Sequence[Record], random: Sequence[Record], minutes: float) -> None:
    for name, entrant in ENTRANTS.items():
        curves = [np.array(record["scores"]) for record in records if record["entrant"] == name]
        if not curves:
            continue
        end = max(curve[-1, 0] for curve in curves)
        grid = np.linspace(0, end, 60) if len(curves) > 1 else curves[0][:, 0]
        lines = np.array([np.interp(grid, curve[:, 0], curve[:, 2]) for curve in curves])
        style: dict[str, Any] = {"color": entrant.colour, "linewidth": 2.0 if entrant.is_ours else 1.3}
        axis.plot(grid / 60, lines.mean(0), label=entrant.label, linestyle="-" if entrant.is_ours else "--", **style)
        if len(curves) > 1:
            axis.fill_between(grid / 60, lines.min(0), lines.max(0), color=entrant.colour, alpha=0.12, linewidth=0)
    for name in RANDOM:
        values = [record["scores"][-1][2] for record in random if record["entrant"] == name]
        if values:
            axis.axhline(
                float(np.mean(values)), color="#9aa0a8", linewidth=0.9, linestyle=":" if name == "random" else "-."
            )
            axis.plot([], [], color="#9aa0a8", linestyle=":" if name == "random" else "-.", label=LABELS[name])
    axis.set_title(f"{minutes:g} minutes of a core", loc="left")
    axis.set_xlabel("minutes, scoring not counted")
    axis.set_xlim(0, minutes)
    axis.grid(color="#e6e8eb")
    axis.spines[["top", "right"]].set_visible(False)
