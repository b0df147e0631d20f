"""A training loop without a toolbox: keyed image order, checkpoints, scores and resume, bit for bit on a CPU."""

from transfer_runs.plain._loop import Metrics as Metrics
from transfer_runs.plain._loop import Plan as Plan
from transfer_runs.plain._loop import Trained as Trained
from transfer_runs.plain._loop import load_checkpoint as load_checkpoint
from transfer_runs.plain._loop import machine as machine
from transfer_runs.plain._loop import main_rank_first as main_rank_first
from transfer_runs.plain._loop import make_plan as make_plan
from transfer_runs.plain._loop import save_checkpoint as save_checkpoint
from transfer_runs.plain._loop import train as train
from transfer_runs.plain._order import Key as Key
from transfer_runs.plain._order import Order as Order
from transfer_runs.plain._order import Part as Part
from transfer_runs.plain._order import batches as batches
from transfer_runs.plain._order import generator as generator
from transfer_runs.plain._order import seed_of as seed_of
