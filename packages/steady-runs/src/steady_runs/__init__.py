"""What any run is: settings -> command line, exit code, folder, lock, stop, progress, checkpoint, random keys.

```python
class Options(Settings):
    epochs: PositiveInt = 10  # a string below it would be its help


def train(arguments: list[str]) -> None:
    options = checked(Options, parse_options(arguments, Options, program="demo train"))
    folder = RunFolder.create(None, "demo")
    folder.write_settings(options.model_dump())


exit_code = run_program(Program("demo", "A demo.", (Command("train", "Train.", train),)), ["train", "--epochs", "3"])
```

Parts that need torch or matplotlib are imported by their module, so that `--help` stays quick:
`steady_runs.checkpoint`, `steady_runs.keys`, `steady_runs.device`, `steady_runs.html`. `steady_runs.benchmark` turns a
transfer benchmark into a program of such runs.
"""

import importlib.metadata

from steady_runs.command_line import Command, Program, fail, help_text, run_argument, run_program
from steady_runs.errors import BadInput, Interrupted, TrainingFailed, WorkerLost, from_worker, one_line
from steady_runs.folder import RunFolder, replace
from steady_runs.lock import FolderLock
from steady_runs.options import parse_options
from steady_runs.progress import Progress, bar, duration
from steady_runs.ranks import gather_rows, launch, ranks
from steady_runs.settings import Settings, checked, nearest, option_name
from steady_runs.stop import StopSignal

__version__ = importlib.metadata.version("steady-runs")

__all__ = [
    "BadInput",
    "Command",
    "FolderLock",
    "Interrupted",
    "Program",
    "Progress",
    "RunFolder",
    "Settings",
    "StopSignal",
    "TrainingFailed",
    "WorkerLost",
    "bar",
    "checked",
    "duration",
    "fail",
    "from_worker",
    "gather_rows",
    "help_text",
    "launch",
    "nearest",
    "one_line",
    "option_name",
    "parse_options",
    "ranks",
    "replace",
    "run_argument",
    "run_program",
]
