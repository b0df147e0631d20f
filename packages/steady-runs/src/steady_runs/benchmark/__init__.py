"""Transfer benchmarks as runs: command line, run folder, resume, results table and report around a protocol.

```python
class Shapes(BenchmarkSettings):
    command: Literal["shapes"] = "shapes"


protocol = Protocol("shapes", "Shapes, 3 steps", ("AP",), Shapes, check=count_images, run=train_and_score)
app = App("demo", "A benchmark.", "", (protocol,), doctor=lambda: [("python", python)])
exit_code = run_app(app, ["shapes", "--out", "runs/demo-1"])  # metrics.jsonl, results.json, report.html
```

Two ways to train are modules to import by name, as they need torch or MMEngine: `steady_runs.benchmark.plain` and
`steady_runs.benchmark.mmengine`. The pictures and the report load NumPy and matplotlib when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from steady_runs.benchmark.app import App, Job, Outcome, Protocol
from steady_runs.benchmark.commands import run_app
from steady_runs.benchmark.compare import read_results, tables
from steady_runs.benchmark.doctor import Check, gpu, mmcv_operators, python, version
from steady_runs.benchmark.options import BenchmarkSettings
from steady_runs.benchmark.weights import Weights, read_weights

if TYPE_CHECKING:
    from steady_runs.benchmark.pictures import draw_map, draw_objects, side_by_side
    from steady_runs.benchmark.report import render_report

__all__ = [
    "App",
    "BenchmarkSettings",
    "Check",
    "Job",
    "Outcome",
    "Protocol",
    "Weights",
    "draw_map",
    "draw_objects",
    "gpu",
    "mmcv_operators",
    "python",
    "read_results",
    "read_weights",
    "render_report",
    "run_app",
    "side_by_side",
    "tables",
    "version",
]

_LAZY = {
    "draw_map": "steady_runs.benchmark.pictures",
    "draw_objects": "steady_runs.benchmark.pictures",
    "render_report": "steady_runs.benchmark.report",
    "side_by_side": "steady_runs.benchmark.pictures",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
