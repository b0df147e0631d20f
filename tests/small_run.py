"""A run of seconds on one core: 120 images, a thin network, two epochs of four steps."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--data", "shapes:n=120", "--val", "shapes:n=60", "--crops", "1x32@0.3-1"),
    *("--arch", "resnet18", "--width", "0.125", "--stem", "imagenet"),
    *("--epochs", "2", "--batch", "30", "--k", "6", "--neck-dropout", "0.5"),  # dropout: resume must repeat it
    *("--knn-every", "1", "--log-every", "1", "--workers", "0", "--device", "cpu", "--no-report"),
]
