"""The benchmarks. A new one is a file here and a name in `BENCHMARKS`."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from classify.benchmark import Benchmark
from classify.benchmarks import cluster, knn, linear, lowshot, mhead, semi, svm
from classify.settings import Common

# In the order in which they run. knn is first because other ranks take part in it and are free afterwards.
BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK for module in (knn, linear, mhead, svm, lowshot, semi, cluster)
}
# In the order of the tables and columns of published papers; others follow.
FIRST_IN_TABLES = ("svm", "lowshot", "mhead", "linear")

IN_ALL = [benchmark for benchmark in BENCHMARKS.values() if benchmark.in_all is not None]
ALL = "all"


def settings_of(command: str) -> type[Common]:
    """The settings model of a benchmark or of `all`, which has the options that its benchmarks add."""
    if command != ALL:
        return BENCHMARKS[command].settings
    added = [b.in_all.options for b in IN_ALL if b.in_all is not None and b.in_all.options is not None]
    bases: tuple[type[Any], ...] = (*reversed(added), Common)  # --help shows the sections of the last base first
    return create_model("AllSettings", __base__=bases)


def benchmarks_of(command: str, settings: Common) -> list[tuple[Benchmark, Common]]:
    """The benchmarks that a command runs, each with its own settings, before the data are known."""
    if command != ALL:
        return [(BENCHMARKS[command], settings)]
    common: dict[str, Any] = {name: getattr(settings, name) for name in Common.model_fields}
    return [(b, b.settings(**common, **b.in_all.values(settings))) for b in IN_ALL if b.in_all is not None]
