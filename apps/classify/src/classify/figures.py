"""Figures in percent, as results.json has them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def percent(row: dict[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """A copy of `row` in which the fractions of these names, or all if None, are in percent. None stays None."""
    return {k: 100 * v if (names is None or k in names) and v is not None else v for k, v in row.items()}


def interval(right: Tensor) -> list[float]:
    """95 % bootstrap interval of an accuracy, in percent.

    Args:
        right: (N,) bool, whether each test image is classified right.
    """
    from eval_probes import bootstrap_interval

    return [100 * edge for edge in bootstrap_interval(right)]
