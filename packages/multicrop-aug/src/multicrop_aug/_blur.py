"""Gaussian blur with a width per image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._geometry import separable

TRUNCATE = 4.0  # a kernel reaches this many sigmas, rounded to a pixel (scipy's default); 6e-5 of the mass lies outside


def blur_(x: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
    """The chosen images blurred, in place; borders repeat the edge pixel, as PIL does.

    x: (N, C, S, S) float32. sigma: (N,) pixels. chosen: (N,) bool. An image's result depends on its own sigma only.
    """
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        matrices = blur_matrix(sigma[rows], x.shape[-1])
        x.index_copy_(0, rows, separable(x.index_select(0, rows), matrices, matrices))
    return x


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """The blur of one axis as (N, size, size) float32 matrices, rows sum to 1.

    A dense product of this size beats shifting and adding its 2 x 8 + 1 taps, and a grouped convolution by far.
    """
    reach = (TRUNCATE * sigma + 0.5).floor()[:, None]
    radius = int(reach.max())
    taps = torch.arange(-radius, radius + 1, device=sigma.device).float()
    kernel = (-0.5 * (taps / sigma[:, None]).square()).exp() * (taps.abs() <= reach)
    kernel /= kernel.sum(-1, keepdim=True)  # (N, 2 radius + 1)
    # row i of a matrix is the kernel moved right by i; columns run from -radius to size + radius
    matrix = F.pad(kernel, (size - 1, size - 1)).unfold(1, size + 2 * radius, 1).flip(1)
    inside = matrix[..., radius : radius + size].contiguous()
    inside[..., 0] += matrix[..., :radius].sum(-1)
    inside[..., -1] += matrix[..., radius + size :].sum(-1)
    return inside
