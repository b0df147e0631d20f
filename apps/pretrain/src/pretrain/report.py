"""report.html: what a run has learnt, in one file that opens without a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cluster_memory import cluster_stats
from eval_probes import nearest_neighbours
from indexed_images import IndexedImages
from PIL import Image
from steady_runs import duration
from steady_runs.html import data_uri, render_page, tile
from steady_runs.keys import generator
from torch import Tensor

from pretrain import figures
from pretrain.data import class_labels
from pretrain.recipe_files import dump
from pretrain.run_folder import PretrainFolder
from pretrain.settings import RunSettings

TILE = 64  # pixels of one image in a montage
PER_CLUSTER = 20
N_QUERIES, N_NEIGHBOURS = 10, 9
MAP_POINTS = 1500


@dataclass
class Montage:
    title: str
    picture: str  # data URI


def write_report(
    folder: PretrainFolder, settings: RunSettings, images: IndexedImages, features: Tensor, assignments: Tensor
) -> None:
    """Write report.html.

    Args:
        folder: Of the run; its metrics are plotted.
        settings: Of the run.
        images: The N training images.
        features: (N, D) of the finished backbone.
        assignments: (N,) int64, the final cluster of each image.
    """
    metrics = folder.read_metrics()
    features, assignments = features.cpu(), assignments.cpu()
    k = int(assignments.max()) + 1
    stats = cluster_stats(assignments, k)
    subset = torch.randperm(len(images), generator=generator(settings.seed, "map"))[:MAP_POINTS].sort().values
    html = render_page(
        "pretrain",
        "report.html.j2",
        name=folder.path.name,
        settings=settings,
        toml=dump(settings),
        final=metrics[-1],
        n_images=len(images),
        took=duration(metrics[-1].get("wall_s", 0.0)),
        stats=stats,
        curves=figures.curves(metrics),
        mends=[line for line in metrics if "mended" in line],
        sizes=figures.cluster_sizes(stats.sizes),
        embedding=figures.embedding_map(features[subset], _colours(images, assignments)[subset], _names(images)),
        clusters=_cluster_montages(images, assignments, stats.sizes, settings.seed),
        neighbours=_neighbour_montage(images, features, settings.seed),
    )
    folder.write_report(html)


def _names(images: IndexedImages) -> list[str] | None:
    """Names of the classes that `_colours` shows; None if it shows clusters."""
    return None if class_labels(images) is None else images.class_names


def _colours(images: IndexedImages, assignments: Tensor) -> Tensor:
    labels = class_labels(images)
    return assignments if labels is None else labels


def _cluster_montages(images: IndexedImages, assignments: Tensor, sizes: Tensor, seed: int) -> list[Montage]:
    """Montages of some of the largest, the median and the smallest clusters, with random members."""
    by_size = [int(c) for c in sizes.argsort(descending=True, stable=True) if sizes[c] > 0]
    middle = len(by_size) // 2
    chosen = {
        "largest": by_size[:3],
        "median": by_size[max(3, middle - 1) : middle + 2],
        "smallest": by_size[max(middle + 2, len(by_size) - 3) :],
    }
    montages = []
    for kind, clusters in chosen.items():
        for c in clusters:
            members = (assignments == c).nonzero().flatten()
            pick = members[torch.randperm(len(members), generator=generator(seed, "montage", c))[:PER_CLUSTER]]
            title = f"{kind}: cluster {c}, {len(members):,} images"
            montages.append(Montage(title, _picture([tile(images[int(i)].image, TILE) for i in pick], columns=10)))
    return montages


def _neighbour_montage(images: IndexedImages, features: Tensor, seed: int) -> str:
    """One row per query: the image, then its nearest neighbours among all other images."""
    queries = torch.randperm(len(images), generator=generator(seed, "neighbours"))[:N_QUERIES]
    found, _ = nearest_neighbours(features[queries], features, k=min(N_NEIGHBOURS + 1, len(images)))
    tiles = []
    for query, row in zip(queries.tolist(), found.tolist(), strict=True):
        others = [i for i in row if i != query][: len(row) - 1]
        tiles += [tile(images[i].image, TILE) for i in (query, *others)]
    return _picture(tiles, columns=found.shape[1], first_apart=True)


def _picture(tiles: list[Image.Image], columns: int, *, first_apart: bool = False) -> str:
    """Tiles in rows, as the data URI of a PNG. `first_apart` leaves a gap after the first column."""
    gap, apart = 3, 12 if first_apart else 0
    rows = -(-len(tiles) // columns)
    width = min(columns, len(tiles)) * (TILE + gap) - gap + apart
    sheet = Image.new("RGBA", (width, rows * (TILE + gap) - gap))
    for i, picture in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(picture, (column * (TILE + gap) + (apart if column else 0), row * (TILE + gap)))
    return data_uri(sheet)
