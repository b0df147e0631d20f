"""For every test: one thread a process, as pytest runs a process a core and torch's threads would fight for them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
