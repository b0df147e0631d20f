"""The skeleton of a transfer benchmark: command line, run folder, resume, report; MMEngine under it if installed.

>>> protocol = Protocol("shapes", "Shapes, 3 steps", columns=("AP",), check=count_images, run=train_and_score)
>>> app = App("demo", "A benchmark.", "", protocols=(protocol,), doctor=lambda: [("python", python)])
>>> exit_code = main(app, ["shapes", "--out", "runs/demo-1"])      # metrics.jsonl, results.json, report.html

`steady_runs.mmengine` turns an MMEngine config into such a run; it is imported only where MMEngine is."""

from steady_runs._doctor import Check as Check
from steady_runs._doctor import gpu as gpu
from steady_runs._doctor import mmcv_operators as mmcv_operators
from steady_runs._doctor import python as python
from steady_runs._doctor import version as version
from steady_runs._errors import BadInput as BadInput
from steady_runs._errors import Interrupted as Interrupted
from steady_runs._errors import TrainingFailed as TrainingFailed
from steady_runs._folder import RunFolder as RunFolder
from steady_runs._folder import read_results as read_results
from steady_runs._job import App as App
from steady_runs._job import Job as Job
from steady_runs._job import Outcome as Outcome
from steady_runs._job import Protocol as Protocol
from steady_runs._main import main as main
from steady_runs._pictures import draw_map as draw_map
from steady_runs._pictures import draw_objects as draw_objects
from steady_runs._pictures import side_by_side as side_by_side
from steady_runs._progress import Progress as Progress
from steady_runs._progress import bar as bar
from steady_runs._progress import duration as duration
from steady_runs._report import render_report as render_report
from steady_runs._results import table as table
from steady_runs._stop import StopSignal as StopSignal
from steady_runs._weights import Weights as Weights
from steady_runs._weights import read_weights as read_weights
