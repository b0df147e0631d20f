"""k-means clusters of the test images, scored against their labels."""

from __future__ import annotations

from pydantic import PositiveInt
from steady_runs import Settings

from classify.benchmark import Bench, Benchmark, InAll, Result, Row
from classify.figures import percent
from classify.settings import Common


class ClusterOptions(Settings):
    """cluster"""

    k: PositiveInt | None = None
    """Number of clusters. If left out, the number of classes."""


class ClusterSettings(ClusterOptions, Common):
    pass


def run(bench: Bench, settings: ClusterSettings) -> Result:
    from eval_probes import ClusterProbe

    x, y = bench.test.x["avgpool"], bench.test.y
    k = settings.k or len(y.unique())
    probe = ClusterProbe(k, seed=settings.seed).fit(x)
    return {"k": k, **percent(probe.evaluate(x, y)[f"k={k}"])}


def rows(result: Result) -> list[Row]:
    scores = {name: f"{result[name]:.2f}" for name in ("nmi", "ari", "accuracy", "purity")}
    return [("", {"K": str(result["k"])} | scores)]


BENCHMARK = Benchmark(
    "cluster",
    "k-means clusters against the labels",
    ClusterSettings,
    run,
    "k-means clusters (%)",
    rows,
    in_all=InAll(),
)
