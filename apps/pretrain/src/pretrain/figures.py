"""The plots of the report, each an SVG that needs nothing else."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from steady_runs.html import PLOT_STYLE, svg
from torch import Tensor

INK, ACCENT, SECOND = "#30343b", "#2f6fde", "#d9822b"
_STYLE: Any = PLOT_STYLE | {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a8",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.axisbelow": True,
}


def curves(metrics: list[dict[str, Any]]) -> Markup:
    """Loss, kNN, clusters and embeddings against the step; panels without data are left out."""
    panels = [
        ("loss", "loss", 1.0),
        ("knn_top1", "kNN top-1, %", 1.0),
        ("change", "labels changed, % of the batch", 100.0),
        ("effective_clusters", "effective number of clusters", 1.0),
        ("nmi", "agreement with the clusters before (NMI)", 1.0),
        ("code_entropy", "entropy of the codes, nats", 1.0),
        ("rankme", "effective rank of the embeddings", 1.0),
    ]
    have = [(key, title, factor) for key, title, factor in panels if any(key in line for line in metrics)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 2.9 * -(-len(have) // 2)), layout="constrained")
        axes = np.atleast_1d(figure.subplots(-(-len(have) // 2), 2)).flatten()
        for axis, (key, title, factor) in zip(axes, have, strict=False):
            points = [(line["step"], factor * line[key]) for line in metrics if key in line]
            marker = "o" if key == "knn_top1" else None
            axis.plot(*zip(*points, strict=True), color=ACCENT, linewidth=1.6, marker=marker, markersize=4)
            axis.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
            axis.set_xlabel("step")
            if key in ("change", "knn_top1"):
                axis.set_ylim(bottom=0)
        for axis in axes[len(have) :]:
            axis.set_visible(False)
        return svg(figure, dpi=150, transparent=True)


def cluster_sizes(sizes: Tensor) -> Markup:
    """Images in each cluster, largest first."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        axis: Axes = figure.subplots()
        ordered = sizes.sort(descending=True).values.numpy()
        axis.fill_between(np.arange(len(ordered)), ordered, step="mid", color=ACCENT, alpha=0.85, linewidth=0)
        axis.axhline(ordered.mean(), color=SECOND, linewidth=1.2)
        axis.annotate("mean", (len(ordered) - 1, ordered.mean()), color=SECOND, ha="right", va="bottom")
        axis.set(xlabel="cluster, by size", ylabel="images", ylim=(0, None), xlim=(-0.5, len(ordered) - 0.5))
        return svg(figure, dpi=150, transparent=True)


def embedding_map(features: Tensor, colours: Tensor, names: list[str] | None) -> Markup:
    """t-SNE of the features (cosine); a colour a class, or a cluster where there are no classes."""
    if len(features) < 10:
        return Markup()
    from sklearn.manifold import TSNE  # seconds to import, and only used at the end

    place = TSNE(perplexity=min(30, len(features) / 4), init="pca", metric="cosine", max_iter=500, random_state=0)
    xy = place.fit_transform(features.numpy())
    values = colours.numpy()
    shown = np.unique(values)
    palette = mpl.colormaps["tab20"] if len(shown) <= 20 else mpl.colormaps["turbo"]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axis: Axes = figure.subplots()
        for i, value in enumerate(shown):
            of = values == value
            colour = palette(i) if len(shown) <= 20 else palette(i / len(shown))
            label = names[value] if names and len(shown) <= 20 else None
            axis.scatter(xy[of, 0], xy[of, 1], s=11, color=colour, label=label, linewidths=0, rasterized=True)
        if names and len(shown) <= 20:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
        axis.set(xticks=[], yticks=[])
        return svg(figure, dpi=150, transparent=True)
