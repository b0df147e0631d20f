"""report.html: tables, the confusion matrix and neighbours of some images, in one file that opens without a network."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from eval_probes import KNNProbe, TapFeatures, nearest_neighbours
from indexed_images import IndexedImages
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from classify.data import Sets
from classify.probes import labels
from classify.results import Results, rows

TILE, N_QUERIES, N_NEIGHBOURS, MOST_CLASSES = 64, 10, 9, 40


def render(results: Results, sets: Sets, train: TapFeatures | None, test: TapFeatures | None) -> str:
    """The page. Without features (fine-tuning alone) it has the tables only; names are escaped."""
    confusion, gallery = None, None
    if train is not None and test is not None and "avgpool" in test.x:
        gallery = _gallery(sets, train, test)
        if not sets.multi_label:
            confusion = _confusion(train, test, sets.train.class_names)
    page = Environment(loader=PackageLoader("classify", "."), autoescape=True).get_template("report.html.j2")
    return page.render(
        results=results,
        tables=rows(results),
        confusion=confusion,
        gallery=gallery,
        sizes=(len(sets.train), len(sets.test)),
    )


def _confusion(train: TapFeatures, test: TapFeatures, names: list[str] | None) -> Markup:
    """Shares of each true class by predicted class, of kNN with k = 20; the commonest classes where there are many."""
    y = labels(test)
    predicted = KNNProbe(20).fit(train.x["avgpool"], labels(train)).predict(test.x["avgpool"])
    classes, counts = y.unique(return_counts=True)
    shown = classes[counts.argsort(descending=True, stable=True)[:MOST_CLASSES]].sort().values
    table = torch.stack([torch.stack([((y == a) & (predicted == b)).sum() for b in shown]) for a in shown]).double()
    share = (100 * table / torch.stack([(y == a).sum() for a in shown])[:, None]).numpy()
    texts = [names[int(c)] if names is not None and 0 <= int(c) < len(names) else str(int(c)) for c in shown]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cluster-ssl", "font.family": "sans-serif"}):
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
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])


def _gallery(sets: Sets, train: TapFeatures, test: TapFeatures) -> str:
    """A row a test image: the image, then its nearest training images."""
    queries = torch.linspace(0, len(sets.test) - 1, min(N_QUERIES, len(sets.test))).long()
    found, _ = nearest_neighbours(test.x["avgpool"][queries], train.x["avgpool"], k=min(N_NEIGHBOURS, len(sets.train)))
    gap, apart = 3, 12
    columns = found.shape[1] + 1
    sheet = Image.new("RGBA", (columns * (TILE + gap) + apart, len(queries) * (TILE + gap)))
    for row, (query, neighbours) in enumerate(zip(queries.tolist(), found.tolist(), strict=True)):
        sheet.paste(_tile(sets.test, query), (0, row * (TILE + gap)))
        for column, index in enumerate(neighbours, 1):
            sheet.paste(_tile(sets.train, index), (column * (TILE + gap) + apart, row * (TILE + gap)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _tile(images: IndexedImages, index: int) -> Image.Image:
    pixels: Tensor = images[index].image
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    enlarge: Any = Image.Resampling.NEAREST if side < TILE else Image.Resampling.LANCZOS
    return picture.resize((TILE, TILE), enlarge, box=(left, top, left + side, top + side))
