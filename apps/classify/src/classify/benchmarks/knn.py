"""Nearest neighbours of average-pooled features."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt
from steady_runs import Settings

from classify.benchmark import Bench, Benchmark, InAll, Result, Row
from classify.figures import interval
from classify.settings import Common


class KnnOptions(Settings):
    """knn"""

    k: tuple[PositiveInt, ...] = (10, 20, 100, 200)
    """Numbers of neighbours; all are measured in one pass."""
    temperature: PositiveFloat = 0.07
    """Temperature T of a neighbour's vote, exp(cosine similarity / T)."""


class KnnSettings(KnnOptions, Common):
    pass


def run(bench: Bench, settings: KnnSettings) -> Result:
    """Classify the test images by their nearest training images. The ranks share the test images. Collective."""
    from eval_probes import KNNProbe, rankme

    extractor, test = bench.extractor, bench.test
    probe = KNNProbe(settings.k, temperature=settings.temperature).fit(bench.train.x["avgpool"], bench.train.y)
    mine = probe.hits(extractor.share(test.x["avgpool"]), extractor.share(test.y))
    hits = {k: extractor.gather(mine[f"k={k}"].byte()).bool() for k in settings.k}
    by_k = {
        str(k): {
            "top1": 100 * float(right[:, 0].double().mean()),
            "top5": 100 * float(right[:, 1].double().mean()),
            "interval": interval(right[:, 0]),
        }
        for k, right in hits.items()
    }
    return {"temperature": settings.temperature, "k": by_k, "rankme": rankme(test.x["avgpool"].float())}


def rows(result: Result) -> list[Row]:
    return [("", {f"k={k}": f"{row['top1']:.2f}" for k, row in result["k"].items()})]


BENCHMARK = Benchmark(
    "knn",
    "nearest neighbours, all k from one pass",
    KnnSettings,
    run,
    "kNN (top-1, %)",
    rows,
    in_all=InAll(lambda every: {"k": every.k, "temperature": every.temperature}, KnnOptions),
    on_every_rank=True,
)
