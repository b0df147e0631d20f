"""Runs of seconds on one core: 120 images, a thin network, two epochs of four steps."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMON = [
    *("--data", "shapes:n=120", "--val", "shapes:n_val=60"),
    *("--arch", "resnet18", "--width", "0.125", "--stem", "imagenet"),
    *("--epochs", "2", "--batch", "30", "--k", "6"),
    *("--knn-every", "1", "--log-every", "1", "--workers", "0", "--device", "cpu", "--no-report"),
]
SMALL = [*COMMON, "--crops", "1x32@0.3-1", "--neck-dropout", "0.5"]  # dropout: resume must repeat it
SMALL_DEEPCLUSTER = [*COMMON, "--crops", "1x32@0.3-1", "--pca-dim", "16"]
SMALL_DEEPCLUSTER_V2 = [*COMMON, "--crops", "2x32@0.3-1", "2x16@0.1-0.4", "--hidden", "32", "--dim", "16"]
SMALL_SWAV = [*SMALL_DEEPCLUSTER_V2, "--queue", "60", "--queue-from-epoch", "0", "--freeze-prototypes-steps", "2"]
SMALL_RUNS = {
    "odc": SMALL,
    "deepcluster": SMALL_DEEPCLUSTER,
    "deepcluster_v2": SMALL_DEEPCLUSTER_V2,
    "swav": SMALL_SWAV,
}
