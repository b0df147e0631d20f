"""A training loop without a toolbox. On a CPU, a resumed run gives the same numbers as one that was not interrupted."""

from steady_runs.benchmark.plain._loop import (
    Metrics,
    Plan,
    Trained,
    load_checkpoint,
    machine,
    main_rank_first,
    make_plan,
    train,
)
from steady_runs.benchmark.plain._order import Key, Order, Part, batches

__all__ = [
    "Key",
    "Metrics",
    "Order",
    "Part",
    "Plan",
    "Trained",
    "batches",
    "load_checkpoint",
    "machine",
    "main_rank_first",
    "make_plan",
    "train",
]
