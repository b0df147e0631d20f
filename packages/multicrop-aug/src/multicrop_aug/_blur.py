"""Gaussian blur with a width per image."""

import torch
from torch import Tensor

from ._geometry import separable

TRUNCATE = 4.0  # a kernel reaches this many sigmas, rounded to a pixel (scipy's default); 6e-5 of the mass lies outside


def blur_(x: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
    """The chosen images blurred, in place; borders repeat the edge pixel, as PIL does.

    x: (N, C, S, S) float32. sigma: (N,) pixels. chosen: (N,) bool. An image's result depends on its own sigma only.
    """
    matrices = blur_matrix(sigma, x.shape[-1])
    return x.copy_(torch.where(chosen[:, None, None, None], separable(x, matrices, matrices), x))


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """The blur of one axis as (N, size, size) float32 matrices, rows sum to 1; a kernel reaches 4 sizes at most."""
    taps = torch.arange(4 * size + 1, device=sigma.device, dtype=torch.float32)  # one side of the kernel
    reach = (TRUNCATE * sigma + 0.5).floor()[:, None]
    kernel = (-0.5 * (taps / sigma[:, None]).square()).exp() * (taps <= reach)  # (N, 4 size + 1)
    kernel /= 2 * kernel.sum(-1, keepdim=True) - kernel[:, :1]
    places = torch.arange(size, device=sigma.device)
    matrix = kernel[:, (places[:, None] - places).abs()]
    beyond = kernel[:, 1:].flip(-1).cumsum(-1).flip(-1)[:, :size]  # [:, i]: taps that reach more than i pixels away
    matrix[..., 0] += beyond
    matrix[..., -1] += beyond.flip(-1)
    return matrix
