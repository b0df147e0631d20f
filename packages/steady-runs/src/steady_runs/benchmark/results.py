"""results.json of a finished run."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from steady_runs.benchmark.app import Outcome, Protocol

DISTRIBUTIONS = ("torch", "torchvision", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation", "onedl-mmengine")
# Options that change no result
BOOKKEEPING = ("out", "quiet", "workers", "check_data", "checkpoint_every", "gpus")


def record(
    app: str, protocol: Protocol[Any], settings: Mapping[str, Any], outcome: Outcome, wall_s: float
) -> dict[str, Any]:
    """Content of results.json: the metrics in percent, and everything that is needed to repeat them.

    Args:
        app: Name of the app.
        protocol: The benchmark that ran.
        settings: Content of settings.json.
        outcome: What the run returned.
        wall_s: Seconds that it took.
    """
    return {
        "app": app,
        "protocol": protocol.name,
        "title": outcome.title or protocol.title,
        "columns": list(protocol.columns),
        "metrics": {name: outcome.metrics[name] for name in protocol.columns},
        "untrained": outcome.untrained,
        "classes": outcome.classes,
        **outcome.facts,
        "options": {name: value for name, value in settings.items() if name not in BOOKKEEPING},
        "versions": {"python": platform.python_version()} | _versions(),
        "wall_s": round(wall_s, 1),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
