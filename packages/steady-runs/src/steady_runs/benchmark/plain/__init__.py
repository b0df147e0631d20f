"""A training loop without a toolbox: keyed image order, checkpoints, scores and resume, bit for bit on a CPU."""

from steady_runs.plain._loop import Metrics as Metrics
from steady_runs.plain._loop import Plan as Plan
from steady_runs.plain._loop import Trained as Trained
from steady_runs.plain._loop import load_checkpoint as load_checkpoint
from steady_runs.plain._loop import machine as machine
from steady_runs.plain._loop import main_rank_first as main_rank_first
from steady_runs.plain._loop import make_plan as make_plan
from steady_runs.plain._loop import save_checkpoint as save_checkpoint
from steady_runs.plain._loop import train as train
from steady_runs.plain._order import Key as Key
from steady_runs.plain._order import Order as Order
from steady_runs.plain._order import Part as Part
from steady_runs.plain._order import batches as batches
from steady_runs.plain._order import generator as generator
from steady_runs.plain._order import seed_of as seed_of
