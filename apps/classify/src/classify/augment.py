"""Augmentations of the linear protocols that `multicrop_aug` lacks, drawn by (seed, epoch, index)."""

from __future__ import annotations

import numpy as np
import torch
import torchvision.transforms.functional as F
from torch import Tensor

# Krizhevsky et al. 2012: principal components of ImageNet's colours, for images in [0, 1]; an eigenvector per column
EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
EIGENVECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def lighting(
    crops: Tensor, indices: Tensor, epoch: int, seed: int, *, std: tuple[float, ...], alpha: float = 0.1
) -> Tensor:
    """PCA lighting: add to each image one random colour, sum_j a_j lambda_j v_j with a ~ N(0, alpha).

    Args:
        crops: (B, 3, S, S), already normalised by `std`.
        indices: (B,), of the images in the data set.
        epoch: The draw depends on it.
        seed: The draw depends on it.
        std: Standard deviations that the crops were divided by.
        alpha: Strength.
    """
    draws = [np.random.default_rng([seed, epoch, int(i), 1]).normal(0, alpha, 3) for i in indices]
    colour = (torch.tensor(np.array(draws)).float() * EIGENVALUES) @ EIGENVECTORS.T  # (B, 3)
    return crops + (colour / torch.tensor(std))[:, :, None, None]


def shifted(image: Tensor, index: int, epoch: int, seed: int, *, size: int, resize: int) -> Tensor:
    """A random square of side `size` within the central square of side `resize`, flipped half of the time; uint8."""
    image = F.center_crop(F.resize(image, resize, antialias=True), [resize, resize])
    draw = np.random.default_rng([seed, epoch, index, 2])
    top, left = draw.integers(0, resize - size + 1, 2).tolist()
    image = image[:, top : top + size, left : left + size]
    return image.flip(-1) if draw.random() < 0.5 else image


def squashed(image: Tensor, *, size: int, resize: int) -> Tensor:
    """The evaluation image of VOC2007, uint8: short side to `resize`, then both sides to `size`.

    The second resize does not keep the aspect ratio.
    """
    return F.resize(F.resize(image, resize, antialias=True), [size, size], antialias=True)
