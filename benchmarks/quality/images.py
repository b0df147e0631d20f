"""CIFAR-10 as the race needs it: files of arrays in the working folder, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.cifar10_npz import NAMES, read_sheets


def prepare(data: Path, work: Path, n_images: int) -> Path:
    """The folder with train.npz, test.npz (images and labels), and images.npz, the training images without labels.

    Our runs are given images.npz, so that they cannot score themselves: scoring is not in the budget.

    Args:
        data: Holds cifar10_lossless_*.npz, or a folder `cifar10` that does.
        work: Where the folder is made.
        n_images: Training images, from the first on.
    """
    folder = work / f"cifar10-{n_images}"
    if (folder / "test.npz").exists():  # the last one that is written
        return folder
    source = data if (data / "cifar10_lossless_test1000.npz").exists() else data / "cifar10"
    parts = [read_sheets(source / "cifar10_lossless_train_a.npz")]
    if n_images > len(parts[0][0]):
        parts.append(read_sheets(source / "cifar10_lossless_train_b.npz"))
    images, labels = (np.concatenate(columns)[:n_images] for columns in zip(*parts, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "images.npz", images=images)
    np.savez(folder / "train.npz", images=images, labels=labels.astype(np.int64), class_names=NAMES)
    images, labels = read_sheets(source / "cifar10_lossless_test1000.npz")
    np.savez(folder / "partial.npz", images=images, labels=labels.astype(np.int64), class_names=NAMES)
    (folder / "partial.npz").rename(folder / "test.npz")
    return folder


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) int64."""
    with np.load(path) as file:
        return file["images"], file["labels"]
