"""What a training step waits for a checkpoint: written beside it, against written by it.

python benchmarks/bench_checkpoint.py                  # ODC at ImageNet size: 1.5 GB
python benchmarks/bench_checkpoint.py --images 50000
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from steady_runs.checkpoint import Checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    state = {
        "bank": torch.randn(given.images, 256),
        "assignments": torch.randint(10_000, (given.images,)),
        "weights": [torch.randn(25_600_000) for _ in range(2)],  # ResNet-50 and its momentum
    }
    size = sum(t.nbytes for t in [state["bank"], state["assignments"], *state["weights"]]) / 1e9
    print(f"{size:.2f} GB, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        stalls, whole = [], []
        for _ in range(given.times):
            began = time.perf_counter()
            checkpoints.save(state)
            stalls.append(time.perf_counter() - began)
            checkpoints.wait()
            whole.append(time.perf_counter() - began)
        print(f"stall: first {stalls[0]:.2f} s (new memory), then {statistics.median(stalls[1:]):.2f} s")
        print(f"on the disk after {statistics.median(whole):.2f} s, which is what a step would wait without a thread")


if __name__ == "__main__":
    main()
