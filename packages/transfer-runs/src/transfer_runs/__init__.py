"""The skeleton of a transfer benchmark: command line, run folder, resume, report; MMEngine under it if installed.

>>> protocol = Protocol("shapes", "Shapes, 3 steps", columns=("AP",), check=count_images, run=train_and_score)
>>> app = App("demo", "A benchmark.", "", protocols=(protocol,), doctor=lambda: [("python", python)])
>>> exit_code = main(app, ["shapes", "--out", "runs/demo-1"])      # metrics.jsonl, results.json, report.html

`transfer_runs.mmengine` turns an MMEngine config into such a run; it is imported only where MMEngine is."""

from transfer_runs._doctor import Check as Check
from transfer_runs._doctor import gpu as gpu
from transfer_runs._doctor import mmcv_operators as mmcv_operators
from transfer_runs._doctor import python as python
from transfer_runs._doctor import version as version
from transfer_runs._errors import BadInput as BadInput
from transfer_runs._errors import Interrupted as Interrupted
from transfer_runs._errors import TrainingFailed as TrainingFailed
from transfer_runs._folder import RunFolder as RunFolder
from transfer_runs._folder import read_results as read_results
from transfer_runs._job import App as App
from transfer_runs._job import Job as Job
from transfer_runs._job import Outcome as Outcome
from transfer_runs._job import Protocol as Protocol
from transfer_runs._main import main as main
from transfer_runs._pictures import draw_map as draw_map
from transfer_runs._pictures import draw_objects as draw_objects
from transfer_runs._pictures import side_by_side as side_by_side
from transfer_runs._progress import Progress as Progress
from transfer_runs._progress import bar as bar
from transfer_runs._progress import duration as duration
from transfer_runs._report import render_report as render_report
from transfer_runs._results import table as table
from transfer_runs._stop import StopSignal as StopSignal
from transfer_runs._weights import Weights as Weights
from transfer_runs._weights import read_weights as read_weights
