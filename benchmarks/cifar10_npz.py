"""CIFAR-10 kept as sheets of lossless WebP -> the two npz files that `--data npz:TRAIN,VAL` reads.

    uv run benchmarks/cifar10_npz.py FOLDER .data --train 10000

FOLDER holds cifar10_lossless_{train_a,train_b,test1000}.npz: members webp, len (bytes of each sheet) and label; a
sheet is 25 rows of 40 images. Writes .data/cifar10_train.npz and .data/cifar10_test.npz: images (N, 32, 32, 3) uint8
and labels.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def read_sheets(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One file -> images (N, 32, 32, 3) uint8 and labels (N,), in the official order."""
    with np.load(path) as file:
        ends = np.cumsum(file["len"].astype(np.int64))
        sheets = np.split(file["webp"], ends[:-1])
        pictures = [np.asarray(Image.open(io.BytesIO(s.tobytes())).convert("RGB")) for s in sheets]
        images = [p.reshape(25, 32, 40, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for p in pictures]
        return np.concatenate(images), file["label"]


def convert(source: Path, target: Path, n_train: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    parts = [read_sheets(source / "cifar10_lossless_train_a.npz")]
    if n_train > len(parts[0][0]):
        parts.append(read_sheets(source / "cifar10_lossless_train_b.npz"))
    train = [np.concatenate(columns)[:n_train] for columns in zip(*parts, strict=True)]
    test = read_sheets(source / "cifar10_lossless_test1000.npz")
    for name, (images, labels) in (("train", train), ("test", test)):
        np.savez(target / f"cifar10_{name}.npz", images=images, labels=labels.astype(np.int64), class_names=NAMES)
        print(f"{target / f'cifar10_{name}.npz'}: {len(images):,} images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--train", type=int, default=50_000, help="how many training images, from the first on")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target, arguments.train)
