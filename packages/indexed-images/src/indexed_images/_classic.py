"""The sources `cifar10`, `cifar100` and `stl10`, read through torchvision."""

from pathlib import Path
from typing import Any

import numpy as np

from ._source import ArraySource, Request


def open_cifar10(request: Request) -> ArraySource:
    data = _open("CIFAR10", "cifar10", request, train=request.split == "train")
    return ArraySource(data.data, np.array(data.targets, dtype=np.int64), list(data.classes), "cifar10")


def open_cifar100(request: Request) -> ArraySource:
    data = _open("CIFAR100", "cifar100", request, train=request.split == "train")
    return ArraySource(data.data, np.array(data.targets, dtype=np.int64), list(data.classes), "cifar100")


def open_stl10(request: Request) -> ArraySource:
    data = _open("STL10", "stl10", request, split="train" if request.split == "train" else "test")
    images = data.data.transpose(0, 2, 3, 1)  # torchvision stores STL-10 as (N, 3, H, W)
    return ArraySource(images, data.labels.astype(np.int64), list(data.classes), "stl10")


def _open(dataset: str, name: str, request: Request, **kwargs: Any) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(f"{name} needs torchvision: pip install 'indexed-images[torchvision]'") from error
    root = Path(request.arg or "~/.cache/indexed-images").expanduser()
    try:
        return getattr(datasets, dataset)(root, download=request.download, **kwargs)
    except RuntimeError as error:
        if request.download:
            raise
        raise FileNotFoundError(
            f"{name} is not in {str(root)!r}: fetch it with open_images({name + ':' + str(root)!r}, download=True)"
        ) from error
