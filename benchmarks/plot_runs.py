"""Loss over ln K, and kNN, of several pretraining runs in one picture.

uv run benchmarks/plot_runs.py docs/images/methods-cifar10.png runs/deepcluster-1 runs/odc-1 ...
"""

import argparse
import json
import math
import tomllib
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"deepcluster": "#2f6fde", "odc": "#d9822b", "deepcluster_v2": "#2a9d6f", "swav": "#b0409a"}


def draw(left: Axes, right: Axes, run: Path) -> None:
    config = tomllib.loads((run / "config.toml").read_text())
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    colour = COLOURS[config["method"]]
    trained = [line for line in lines if "loss" in line]
    left.plot(
        [line["step"] for line in trained],
        [line["loss"] / math.log(config["k"]) for line in trained],
        color=colour,
        linewidth=1.3,
        label=config["method"],
    )
    scored = [line for line in lines if "knn_top1" in line]
    right.plot([line["step"] for line in scored], [line["knn_top1"] for line in scored], color=colour, marker="o")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run in arguments.runs:
        draw(left, right, run)
    left.axhline(1.0, color="#9aa0a8", linewidth=0.8, linestyle="--")
    left.set_title("loss / ln K", loc="left")
    left.legend(frameon=False)
    right.set_title("kNN top-1, %", loc="left")
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.grid(color="#e6e8eb")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
