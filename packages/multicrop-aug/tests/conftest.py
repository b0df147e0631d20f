"""Lets tests import the oracles `tensor_draw` and `naive_render`, which lie beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
