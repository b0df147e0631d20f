"""report.html: tables, a confusion matrix and the nearest neighbours of some images."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import torch
from eval_probes import KNNProbe, nearest_neighbours
from matplotlib.figure import Figure
from PIL import Image
from steady_runs.html import PLOT_STYLE, data_uri, render_page, svg, tile

from classify.data import Sets
from classify.features import Labelled
from classify.results import Results, rows

TILE, N_QUERIES, N_NEIGHBOURS, MOST_CLASSES = 64, 10, 9, 40


def render(results: Results, sets: Sets, features: tuple[Labelled, Labelled] | None) -> str:
    """The page.

    Args:
        results: Content of results.json.
        sets: Training and test images.
        features: Of both; without them the page has the tables only.
    """
    confusion, gallery = None, None
    if features is not None:
        gallery = _gallery(sets, *features)
        if not sets.multi_label:
            confusion = _confusion(*features, sets.train.class_names)
    return render_page(
        "classify",
        "report.html.j2",
        results=results,
        tables=rows(results),
        confusion=confusion,
        gallery=gallery,
        sizes=(len(sets.train), len(sets.test)),
    )


def _confusion(train: Labelled, test: Labelled, names: list[str] | None) -> str:
    """Percent of each true class by the class that kNN with k = 20 predicts. Shows the largest classes."""
    y = test.y
    predicted = KNNProbe(20).fit(train.x["avgpool"], train.y).predict(test.x["avgpool"])
    classes, counts = y.unique(return_counts=True)
    shown = classes[counts.argsort(descending=True, stable=True)[:MOST_CLASSES]].sort().values
    table = torch.stack([torch.stack([((y == a) & (predicted == b)).sum() for b in shown]) for a in shown]).double()
    share = (100 * table / torch.stack([(y == a).sum() for a in shown])[:, None]).numpy()
    texts = [names[int(c)] if names is not None and 0 <= int(c) < len(names) else str(int(c)) for c in shown]
    with mpl.rc_context(PLOT_STYLE):
        side = 2.2 + 0.34 * len(shown)
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axis = figure.subplots()
        axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
        axis.set_xticks(range(len(shown)), texts, rotation=60, ha="right")
        axis.set_yticks(range(len(shown)), texts)
        axis.set_xlabel("said by its 20 nearest neighbours")
        axis.set_ylabel("true class")
        if len(shown) <= 20:
            for (i, j), value in np.ndenumerate(share):
                if value >= 1:
                    colour = "white" if value > 55 else "#30343b"
                    axis.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        return svg(figure)


def _gallery(sets: Sets, train: Labelled, test: Labelled) -> str:
    """A row for each of some test images: the image, then its nearest training images."""
    queries = torch.linspace(0, len(sets.test) - 1, min(N_QUERIES, len(sets.test))).long()
    found, _ = nearest_neighbours(test.x["avgpool"][queries], train.x["avgpool"], k=min(N_NEIGHBOURS, len(sets.train)))
    gap, apart = 3, 12
    columns = found.shape[1] + 1
    sheet = Image.new("RGBA", (columns * (TILE + gap) + apart, len(queries) * (TILE + gap)))
    for row, (query, neighbours) in enumerate(zip(queries.tolist(), found.tolist(), strict=True)):
        sheet.paste(tile(sets.test[query].image, TILE), (0, row * (TILE + gap)))
        for column, index in enumerate(neighbours, 1):
            sheet.paste(tile(sets.train[index].image, TILE), (column * (TILE + gap) + apart, row * (TILE + gap)))
    return data_uri(sheet)
